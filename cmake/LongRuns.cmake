# Programs that run as long as they are told to, and a short run of each as a test.

add_executable(exclave_noninterference ${PROJECT_SOURCE_DIR}/tests/noninterference/noninterference.cpp)
add_executable(exclave_soak ${PROJECT_SOURCE_DIR}/tests/soak/soak.cpp)
foreach(program exclave_noninterference exclave_soak)
  target_link_libraries(${program} PRIVATE exclave_sim)
  exclave_options(${program})
  set_target_properties(${program} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
endforeach()

set(operations 1000000)
if(EXCLAVE_SANITIZE OR EXCLAVE_COVERAGE)
  set(operations 200000)
endif()
add_test(NAME noninterference.short COMMAND exclave_noninterference ${operations})
add_test(NAME soak.short COMMAND exclave_soak --seconds 5)
set_tests_properties(noninterference.short soak.short PROPERTIES LABELS long_runs TIMEOUT 300)
