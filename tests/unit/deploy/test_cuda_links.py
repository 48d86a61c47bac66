"""Links that let TensorFlow find pip's CUDA libraries."""

from deploy import cuda_links


def _installed(site_packages, name="libcusolver.so.11"):
    library = site_packages / "nvidia" / "cusolver" / "lib" / name
    library.parent.mkdir(parents=True)
    library.write_bytes(b"cusolver")
    (site_packages / "nvidia" / "cusparse" / "lib").mkdir(parents=True)
    return site_packages / "nvidia" / "cusparse" / "lib" / name


def test_library_is_linked_into_searched_folder(tmp_path):
    place = _installed(tmp_path / "site-packages")
    assert cuda_links.link(tmp_path / "site-packages") == [place]
    assert cuda_links.link(tmp_path / "site-packages") == []
    (tmp_path / "site-packages").rename(tmp_path / "moved")
    assert (tmp_path / "moved/nvidia/cusparse/lib" / place.name).read_bytes() == b"cusolver"


def test_only_dangling_links_are_replaced(tmp_path):
    place = _installed(tmp_path)
    place.symlink_to("nowhere")
    assert cuda_links.link(tmp_path) == [place]
    assert place.read_bytes() == b"cusolver"
    place.unlink()
    place.write_bytes(b"another")
    assert cuda_links.link(tmp_path) == []
    assert place.read_bytes() == b"another"


def test_nothing_is_linked_without_cuda_packages(tmp_path):
    assert cuda_links.link(tmp_path) == []
