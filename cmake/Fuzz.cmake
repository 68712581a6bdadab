# Every fuzz/*_target.cpp is one fuzz target. With EXCLAVE_BUILD_FUZZ it is linked with libFuzzer; otherwise with a
# main that runs files, and a test that runs its corpus.

find_package(GTest REQUIRED)
file(GLOB fuzz_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/fuzz/*_target.cpp)
foreach(source ${fuzz_sources})
  cmake_path(GET source STEM name)
  string(REGEX REPLACE "_target$" "" name ${name})
  set(target exclave_fuzz_${name})
  set(main ${PROJECT_SOURCE_DIR}/fuzz/$<IF:$<BOOL:${EXCLAVE_BUILD_FUZZ}>,libfuzzer_main.cpp,replay_main.cpp>)
  add_executable(${target} ${source} ${main})
  target_link_libraries(${target} PRIVATE exclave_sim GTest::gmock GTest::gtest)
  exclave_options(${target})
  # GoogleTest's macros end in an else of their own, which g++ takes for ours.
  target_compile_options(${target} PRIVATE -Wno-dangling-else)
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/fuzz)
  if(EXCLAVE_BUILD_FUZZ)
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
  else()
    add_test(NAME fuzz.replay_${name} COMMAND ${target} ${PROJECT_SOURCE_DIR}/fuzz/corpus/${name})
    set_tests_properties(fuzz.replay_${name} PROPERTIES LABELS fuzz TIMEOUT 300)
  endif()
endforeach()
