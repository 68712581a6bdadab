// Signals of programs that use the one that the loader needs.
#include "exec/exec_fixture.hpp"

namespace exclave::loader {
namespace {

class ExecSignalsTest : public ExecTest {};

TEST_F(ExecSignalsTest, SigsysIsTheProgramsOwn) {
  const RunResult inside = expect_same({built("signals")});
  EXPECT_NE(inside.out.find("queued: 62 77"), std::string::npos) << inside.out;
  EXPECT_NE(inside.out.find("by default: -31"), std::string::npos) << inside.out;
}

TEST_F(ExecSignalsTest, AFilterOfTheProgramsOwn) {
  const RunResult inside = expect_same({built("own_filter")});
  EXPECT_NE(inside.out.find("trapped: 4321"), std::string::npos) << inside.out;
}

TEST_F(ExecSignalsTest, WhatSurvivesExecve) {
  expect_same(
      {"/bin/bash", "-c", "trap '' SYS; exec grep -E 'SigIgn' /proc/self/status | cut -c1-6; "});
  // Ignored before execve is ignored after it.
  expect_same({"/bin/bash", "-c", "trap '' SYS; /bin/sh -c 'kill -SYS $$; echo lives'"});
  expect_same({"/bin/bash", "-c", "trap '' PIPE; /bin/sh -c 'kill -PIPE $$; echo lives'"});
}

TEST_F(ExecSignalsTest, HandlersThatMapMemoryBesideThreadsAndForks) {
  const RunResult inside = expect_same({built("storm")});
  EXPECT_EQ(inside.out, "bad 0, children 40\n");
}

TEST_F(ExecSignalsTest, HandlersThatJumpOutOfACallOnTheirOwnStack) {
  const RunResult inside = expect_same({built("jumps")});
  EXPECT_EQ(inside.out, "jumped 1500, elsewhere 0, bad 0\n");
}

TEST_F(ExecSignalsTest, ShellTraps) {
  expect_same({"/bin/bash", "-c",
               "trap 'echo usr1' USR1; trap 'echo bye' EXIT; kill -USR1 $$; sleep 0.05; echo end"});
}

}  // namespace
}  // namespace exclave::loader
