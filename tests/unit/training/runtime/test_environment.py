"""`training.runtime.environment.prepare`."""

import os

from training.runtime import environment


def test_prepare_keeps_the_users_settings(monkeypatch):
    monkeypatch.setenv("TF_CPU_ALLOCATOR_USE_BFC", "false")
    monkeypatch.setenv("TF_CPU_BFC_MEM_LIMIT_IN_MB", "77")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.setenv("GRPC_VERBOSITY", "INFO")
    before = dict(os.environ)
    environment.prepare()
    assert dict(os.environ) == before
