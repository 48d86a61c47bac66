# Selects the GPU architectures that the CUDA kernels are compiled for.
#
# DLRM_CUDA_ARCHITECTURES is empty, "native", "all" or compute capabilities without the dot, such as
# "80;90" or "80 90". Empty means native on a host with a supported GPU, and all elsewhere. "all" are
# the generations below that this nvcc supports. The newest selected one is also kept as PTX, which
# the driver compiles for newer GPUs.

# Data-centre and desktop GPUs from Ampere to Blackwell. Machine code also runs on later revisions of
# its generation: 80 on 87, 100 on 103, 120 on 121.
set(DLRM_CUDA_GENERATIONS 80 86 89 90 100 120)
set(DLRM_CUDA_OLDEST 80)

# Sets `result` to the architectures that nvcc supports, in ascending order.
function(dlrm_nvcc_architectures nvcc result)
  execute_process(COMMAND ${nvcc} --list-gpu-arch
    OUTPUT_VARIABLE listed ERROR_QUIET RESULT_VARIABLE status)
  string(REGEX MATCHALL "compute_[0-9]+" names "${listed}")
  string(REPLACE "compute_" "" numbers "${names}")
  if(NOT status EQUAL 0 OR NOT numbers)
    message(FATAL_ERROR " ${nvcc} --list-gpu-arch: expected a list of architectures, found "
                        "'${listed}' (${status}); is it nvcc of CUDA 11.8 or later?")
  endif()
  list(SORT numbers COMPARE NATURAL)
  set(${result} ${numbers} PARENT_SCOPE)
endfunction()

# Sets `result` to the compute capabilities of this host's GPUs, without the dot; empty without a
# driver.
function(dlrm_host_gpus result)
  set(numbers "")
  find_program(DLRM_NVIDIA_SMI nvidia-smi)
  if(DLRM_NVIDIA_SMI)
    # A faulty driver may hang.
    execute_process(COMMAND ${DLRM_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE listed ERROR_QUIET RESULT_VARIABLE status TIMEOUT 30)
    if(status EQUAL 0)
      string(REGEX MATCHALL "[0-9]+\\.[0-9]" capabilities "${listed}")
      string(REPLACE "." "" numbers "${capabilities}")
      list(REMOVE_DUPLICATES numbers)
    endif()
  endif()
  set(${result} "${numbers}" PARENT_SCOPE)
endfunction()

# Sets `result` to the value of CUDA_ARCHITECTURES ("80-real;90") for a choice.
function(dlrm_cuda_architectures nvcc choice result)
  dlrm_nvcc_architectures(${nvcc} known)
  set(all ${DLRM_CUDA_GENERATIONS})
  foreach(number IN LISTS DLRM_CUDA_GENERATIONS)
    if(NOT number IN_LIST known)
      list(REMOVE_ITEM all ${number})
    endif()
  endforeach()
  string(REPLACE ";" " " all_words "${all}")
  set(expected "DLRM_CUDA_ARCHITECTURES=${choice}: expected native, all or some of ${all_words}")

  string(REGEX REPLACE "[ ,;]+" ";" wanted "${choice}")
  list(REMOVE_ITEM wanted "")
  if(wanted STREQUAL "" OR wanted STREQUAL "native")
    dlrm_host_gpus(host)
    set(usable "")
    foreach(number IN LISTS host)
      if(number GREATER_EQUAL DLRM_CUDA_OLDEST)
        # For a GPU newer than this nvcc: the newest earlier architecture, run from its PTX.
        set(newest ${DLRM_CUDA_OLDEST})
        foreach(candidate IN LISTS known)
          if(candidate GREATER newest AND candidate LESS_EQUAL number)
            set(newest ${candidate})
          endif()
        endforeach()
        list(APPEND usable ${newest})
      endif()
    endforeach()
    if(wanted STREQUAL "native" AND NOT usable)
      string(REPLACE ";" " " host_words "${host}")
      message(FATAL_ERROR " ${expected}; native needs a GPU of ${DLRM_CUDA_OLDEST} or later, "
                          "nvidia-smi lists '${host_words}'")
    endif()
    set(wanted ${usable})
    if(NOT wanted)
      set(wanted ${all})
    endif()
  elseif(wanted STREQUAL "all")
    set(wanted ${all})
  endif()

  foreach(number IN LISTS wanted)
    if(NOT number MATCHES "^[0-9]+$" OR NOT number IN_LIST known OR number LESS DLRM_CUDA_OLDEST)
      message(FATAL_ERROR " ${expected} (or another of at least ${DLRM_CUDA_OLDEST} "
                          "in ${nvcc} --list-gpu-arch), found ${number}")
    endif()
  endforeach()
  list(REMOVE_DUPLICATES wanted)
  list(SORT wanted COMPARE NATURAL)
  list(POP_BACK wanted newest)
  list(TRANSFORM wanted APPEND "-real")
  list(APPEND wanted ${newest})
  set(${result} "${wanted}" PARENT_SCOPE)
endfunction()
