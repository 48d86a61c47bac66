# What CMake is told beyond Horovod's own CMakeLists.txt.

# No debugging information: the library shrinks from 51 MB to 2. Horovod turns -O2 into -O3.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -DNDEBUG" CACHE STRING "")

# A wheel must not look for libraries in folders of the machine that built it.
set(CMAKE_SKIP_RPATH ON CACHE BOOL "")
