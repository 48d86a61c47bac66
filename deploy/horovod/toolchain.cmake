# Build settings in addition to Horovod's CMakeLists.txt.

# Without debug information the library has 2 MB instead of 51. Horovod replaces -O2 by -O3.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -DNDEBUG" CACHE STRING "")

# A wheel must not search for libraries in folders of the build machine.
set(CMAKE_SKIP_RPATH ON CACHE BOOL "")
