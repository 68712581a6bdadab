# Programs that run as long as they are told to, and a short run of each as a test.

add_executable(exclave_noninterference ${PROJECT_SOURCE_DIR}/tests/noninterference/noninterference.cpp)
add_executable(exclave_soak ${PROJECT_SOURCE_DIR}/tests/soak/soak.cpp)
add_library(exclave_history STATIC ${PROJECT_SOURCE_DIR}/tests/soak/history.cpp)
target_include_directories(exclave_history PUBLIC ${PROJECT_SOURCE_DIR}/tests)
target_link_libraries(exclave_history PUBLIC exclave_sim)
exclave_test_options(exclave_history)
add_executable(exclave_linearizability ${PROJECT_SOURCE_DIR}/tests/soak/linearizability.cpp
  ${PROJECT_SOURCE_DIR}/tests/soak/driver.cpp ${PROJECT_SOURCE_DIR}/tests/soak/worker.cpp)
target_link_libraries(exclave_linearizability PRIVATE exclave_history)
foreach(program exclave_noninterference exclave_soak exclave_linearizability)
  target_link_libraries(${program} PRIVATE exclave_sim)
  exclave_test_options(${program})
  set_target_properties(${program} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
endforeach()
# The self-tests of the driver (tests/soak/*_test.cpp) start it.
target_link_libraries(soak_test PRIVATE exclave_history)
add_dependencies(soak_test exclave_linearizability)

set(operations 1000000)
if(EXCLAVE_SANITIZE OR EXCLAVE_COVERAGE)
  set(operations 200000)
endif()
add_test(NAME noninterference.short COMMAND exclave_noninterference ${operations})
add_test(NAME soak.short COMMAND exclave_soak --seconds 5)
add_test(NAME linearizability.short COMMAND exclave_linearizability --seconds 5)
set_tests_properties(noninterference.short soak.short linearizability.short
  PROPERTIES LABELS long_runs TIMEOUT 300)
