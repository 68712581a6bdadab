// What a program starts with, and modes that it can put itself or another one into.
#include "exec/exec_fixture.hpp"

namespace exclave::loader {
namespace {

class ModesTest : public ExecTest {};

TEST_F(ModesTest, RegistersAtTheStartAreAsLinuxLeavesThem) {
  const RunResult inside = expect_same({built("bare_entry")});
  EXPECT_NE(inside.out.find("0000000000000202\n"), std::string::npos) << inside.out;
}

TEST_F(ModesTest, StrictModeLeavesOnlyWhatItNames) {
  const RunResult inside = expect_same({built("strict")});
  EXPECT_NE(inside.out.find("alive\nwrites: 500\nmaps: 9\n"), std::string::npos) << inside.out;
}

// As long as a trace would see the loader's stops, too.
TEST_F(ModesTest, NoProgramInsideTracesAnother) {
  const RunResult inside = run_inside({built("traced")}, {"--trace"});
  EXPECT_EQ(inside.out,
            "to be traced: EPERM\nto seize: EPERM\nto attach: EPERM\nnobody: ESRCH\n"
            "one that is not traced: ESRCH\nno request: ESRCH\n");
  // Once for each of the two that asked.
  const std::string told = "exclave: exec: traced: ptrace is EPERM: ";
  const std::size_t first = inside.err.find(told), second = inside.err.find(told, first + 1);
  EXPECT_NE(second, std::string::npos) << inside.err;
  EXPECT_EQ(inside.err.find(told, second + 1), std::string::npos) << inside.err;
  EXPECT_NE(inside.err.find("ptrace(0, 0, NULL, NULL) = -1 EPERM <refused>\n"), std::string::npos)
      << inside.err;
}

// From outside it goes on as ever, and so does a program inside that traces one outside.
TEST_F(ModesTest, TracesThatCrossTheBorderAreLeftAlone) {
  if (::access("/usr/bin/strace", X_OK) != 0) GTEST_SKIP() << "strace is not installed";
  const RunResult native = run({"/usr/bin/strace", "-o", path("native"), "/bin/true"});
  if (native.code != 0) GTEST_SKIP() << "no right to trace here";
  const RunResult outer = run(
      {"/usr/bin/strace", "-f", "-o", path("trace"), tool(), "exec", "--", "/bin/echo", "traced"});
  EXPECT_EQ(outer.out, "traced\n") << outer.err;
  EXPECT_NE(text("trace").find("write(1, \"traced"), std::string::npos);

  const pid_t sleeper = ::fork();
  if (sleeper == 0) {
    ::execl("/bin/sleep", "sleep", "60", nullptr);
    ::_exit(1);
  }
  const RunResult inner = run_inside(
      {"/bin/sh", "-c",
       "strace -o " + path("inner") + " -p " + std::to_string(sleeper) +
           " 2>/dev/null & "
           "until grep -q '^TracerPid:.*[1-9]' /proc/" +
           std::to_string(sleeper) + "/status; do sleep 0.01; done; kill $!; wait; echo seen"});
  ::kill(sleeper, SIGKILL);
  ::waitpid(sleeper, nullptr, 0);
  EXPECT_EQ(inner.out, "seen\n") << inner.err;
}

TEST_F(ModesTest, DevicesAreKnownWhereThereIsNoProc) {
  std::filesystem::create_directory(path("root"));
  const Words program{built("chrooted"), path("root")};
  const RunResult native = run(program);
  if (native.code == 77) GTEST_SKIP() << "no right to change the root";
  const RunResult inside =
      run_inside(program, {"--allow-device", "anon_inode:[io_uring]", "--allow-device",
                           "anon_inode:[perf_event]", "--allow-device", "socket:", "--trace"});
  EXPECT_EQ(inside.out, native.out);
  int outside = 0;
  std::istringstream lines(inside.err);
  for (std::string line; std::getline(lines, line);) {
    outside += line.find("MAP_SHARED|MAP_POPULATE") != std::string::npos &&
               line.find("<outside>") != std::string::npos;
  }
  const auto there = [&native](const char* what) {
    return native.out.find(std::string(what) + ": done\n") != std::string::npos ? 1 : 0;
  };
  EXPECT_EQ(outside, there("ring") + there("event")) << inside.err;
}

}  // namespace
}  // namespace exclave::loader
