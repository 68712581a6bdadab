// The driver finds each fault that can be planted, says which, with seed and last calls, and ends
// with 1; and it refuses what it does not understand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <string>

#include "soak/subject.hpp"
#include "support/sanitizers.hpp"

namespace exclave::soak {
namespace {

struct Outcome {
  int code = -1;
  std::string text;
};

Outcome run(const std::string& arguments) {
  const auto beside = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  const std::string command =
      (beside / "exclave_linearizability").string() + " " + arguments + " 2>&1";
  Outcome outcome;
  FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return outcome;
  std::array<char, 4096> some;
  for (std::size_t n = 0; (n = std::fread(some.data(), 1, some.size(), pipe)) != 0;)
    outcome.text.append(some.data(), n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
  return outcome;
}

class PlantsTest : public testing::TestWithParam<NamedPlant> {};

// A run stops at the first finding. The time is for a machine that does much else; the seeds, for a
// fault that shows by what follows from it before it shows by itself.
TEST_P(PlantsTest, IsFound) {
  if (testing_support::kThreadSanitized && GetParam().plant == Plant::kLateWrite)
    GTEST_SKIP() << "a race, which it finds first";
  const std::string plant(GetParam().name), finding = "found: " + std::string(GetParam().finding);
  Outcome outcome;
  for (int seed = 1; seed != 9 && outcome.text.find(finding) == std::string::npos; ++seed) {
    outcome = run("--seconds 30 --plant " + plant + " --seed " + std::to_string(1000 * seed));
    EXPECT_EQ(outcome.code, 1);
  }
  for (const std::string& part :
       {finding, std::string("last calls of thread 2:"), std::string("--seed ")}) {
    EXPECT_NE(outcome.text.find(part), std::string::npos)
        << part << " is not in " << outcome.text.substr(0, 2000);
  }
}

INSTANTIATE_TEST_SUITE_P(All, PlantsTest, testing::ValuesIn(kPlants), [](const auto& tested) {
  std::string name(tested.param.name);
  for (char& letter : name) letter = letter == '-' ? '_' : letter;
  return name;
});

TEST(LinearizabilityOptionsTest, NonsenseIsRefused) {
  for (const char* arguments :
       {"", "--seconds", "--seconds 0", "--seconds 1x", "--minutes 99999",
        "--seconds 1 --plant tree", "--seconds 1 --plant", "--sekunden 1"}) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_THAT(outcome.text, testing::HasSubstr("usage: ")) << arguments;
  }
}

}  // namespace
}  // namespace exclave::soak
