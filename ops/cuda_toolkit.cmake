# Finds nvcc: in a CUDA toolkit, or in pip's wheels (nvidia-cuda-nvcc and its companions, from CUDA
# 13; the wheels of CUDA 12 contain no nvcc).

# The oldest Linux driver for each CUDA release, from NVIDIA's compatibility table.
set(DLRM_CUDA_DRIVER_12 525.60.13)
set(DLRM_CUDA_DRIVER_13 580.65.06)

# Sets `result` to the path of nvcc, or to an empty string. DLRM_NVCC takes precedence; "pip" skips
# the host's toolkits. bootstrap.sh installs the wheels by the same search.
function(dlrm_find_nvcc site_packages result)
  if(NOT DLRM_NVCC)
    unset(DLRM_NVCC CACHE)
    find_program(DLRM_NVCC nvcc
      HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin PATHS /usr/local/cuda
      DOC "nvcc of a CUDA toolkit")
  endif()
  set(found "")
  if(DLRM_NVCC AND NOT DLRM_NVCC STREQUAL "pip")
    set(found ${DLRM_NVCC})
    if(NOT EXISTS ${found})
      message(FATAL_ERROR " DLRM_NVCC=${found}: expected pip or the path of nvcc, found no file")
    endif()
  else()
    file(GLOB wheels ${site_packages}/nvidia/cu[1-9][0-9]/bin/nvcc)
    if(wheels)
      list(SORT wheels COMPARE NATURAL ORDER DESCENDING)
      list(GET wheels 0 nvcc)
      dlrm_toolkit_of_wheels(${nvcc} found)
    elseif(DLRM_NVCC)
      message(FATAL_ERROR " DLRM_NVCC=pip: expected nvcc in ${site_packages}/nvidia, found none; "
        "run python3 -m pip install --group nvcc")
    endif()
  endif()
  if(found)
    dlrm_check_driver(${found})
  endif()
  set(${result} "${found}" PARENT_SCOPE)
endfunction()

# Sets `result` to the nvcc of a folder of links that has the layout of a toolkit: wheels have lib/
# instead of lib64/ and no libcudart.so. nvcc finds the toolkit from the path it is started by, so
# bin/ is a real folder of links.
function(dlrm_toolkit_of_wheels nvcc result)
  get_filename_component(bin ${nvcc} DIRECTORY)
  get_filename_component(wheels ${bin} DIRECTORY)
  set(toolkit ${CMAKE_BINARY_DIR}/cuda_toolkit)
  file(REMOVE_RECURSE ${toolkit})
  file(MAKE_DIRECTORY ${toolkit}/bin ${toolkit}/lib64)
  foreach(folder include nvvm)
    file(CREATE_LINK ${wheels}/${folder} ${toolkit}/${folder} SYMBOLIC)
  endforeach()
  file(GLOB programs ${bin}/*)
  foreach(program IN LISTS programs)
    get_filename_component(name ${program} NAME)
    file(CREATE_LINK ${program} ${toolkit}/bin/${name} SYMBOLIC)
  endforeach()
  file(GLOB libraries ${wheels}/lib/lib*)
  foreach(library IN LISTS libraries)
    get_filename_component(name ${library} NAME)
    file(CREATE_LINK ${library} ${toolkit}/lib64/${name} SYMBOLIC)
    if(name MATCHES "^libcudart\\.so\\.[0-9]+$")
      file(CREATE_LINK ${library} ${toolkit}/lib64/libcudart.so SYMBOLIC)
    endif()
  endforeach()
  foreach(needed include/cuda_runtime.h include/cccl/cub/cub.cuh nvvm/bin/cicc
      lib64/libcudart.so lib64/libcudart_static.a)
    if(NOT EXISTS ${toolkit}/${needed})
      message(FATAL_ERROR " ${wheels} has nvcc but lacks ${needed}: run python3 -m pip "
        "install --group nvcc")
    endif()
  endforeach()
  set(${result} ${toolkit}/bin/nvcc PARENT_SCOPE)
endfunction()

# Prints a line if this host's driver is too old to run kernels compiled by this nvcc.
function(dlrm_check_driver nvcc)
  find_program(DLRM_NVIDIA_SMI nvidia-smi)
  if(NOT DLRM_NVIDIA_SMI)
    return()
  endif()
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE version ERROR_QUIET)
  execute_process(COMMAND ${DLRM_NVIDIA_SMI} --query-gpu=driver_version --format=csv,noheader
    OUTPUT_VARIABLE listed ERROR_QUIET TIMEOUT 30)
  if(NOT version MATCHES "release ([0-9]+)\\.")
    return()
  endif()
  set(release ${CMAKE_MATCH_1})
  set(oldest "${DLRM_CUDA_DRIVER_${release}}")
  if(listed MATCHES "^([0-9]+[0-9.]*)" AND oldest AND CMAKE_MATCH_1 VERSION_LESS oldest)
    message(NOTICE "ops: the CUDA kernels do not run on this host: CUDA ${release} of ${nvcc} "
      "needs NVIDIA driver ${oldest} or later, found ${CMAKE_MATCH_1}; update the driver, or set "
      "DLRM_NVCC to the nvcc of an earlier CUDA release")
  endif()
endfunction()
