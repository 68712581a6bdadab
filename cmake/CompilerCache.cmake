# Compiles each file once for all presets, clones and branches on this machine: release, release-test, bench and freestanding
# share most of their objects, and so do two clones of one commit. ccache compares the preprocessed source and all flags, so a
# hit is the object that the compiler would have written. Paths count relative to the tree (CCACHE_BASEDIR, CCACHE_NOHASHDIR);
# the debug information of a hit may name the folder of another clone.
option(EXCLAVE_CCACHE "Compile through ccache where it is installed" ON)
if(EXCLAVE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(EXCLAVE_CCACHE_PROGRAM ccache)
  find_program(EXCLAVE_ENV_PROGRAM env)
  mark_as_advanced(EXCLAVE_CCACHE_PROGRAM EXCLAVE_ENV_PROGRAM)
  if(EXCLAVE_CCACHE_PROGRAM AND EXCLAVE_ENV_PROGRAM)
    set(CMAKE_C_COMPILER_LAUNCHER
      ${EXCLAVE_ENV_PROGRAM} CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1
      CCACHE_SLOPPINESS=pch_defines,time_macros ${EXCLAVE_CCACHE_PROGRAM})
    set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_C_COMPILER_LAUNCHER})
  endif()
endif()
