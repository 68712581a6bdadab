// Threads, child processes, and programs that start programs.
#include "exec/exec_fixture.hpp"

namespace exclave::loader {
namespace {

class ProcessesTest : public ExecTest {};

TEST_F(ProcessesTest, ThreadsMapAndUnmapBesideEachOther) {
  const RunResult inside = expect_same({built("threads")});
  EXPECT_NE(inside.out.find("generation 3: 0"), std::string::npos) << inside.out;
}

TEST_F(ProcessesTest, EveryWayToAnotherProcess) {
  const RunResult inside = expect_same({built("processes")});
  EXPECT_NE(inside.out.find("/proc/self/exe: 34"), std::string::npos) << inside.out;
}

TEST_F(ProcessesTest, ThreadsThatUnmapTheirOwnStack) {
  const RunResult inside = expect_same({built("own_stack")});
  EXPECT_EQ(inside.out, "ran 1200, gone 1200\ngood 100\nalternate 50\n");
}

TEST_F(ProcessesTest, SharedMemoryStaysShared) {
  const RunResult inside = expect_same({built("shared")});
  EXPECT_NE(inside.out.find("memfd: child"), std::string::npos) << inside.out;
}

TEST_F(ProcessesTest, ShellsAndPipes) {
  expect_same({"/bin/sh", "-c", "ls /usr | sort -r | head -n 3; (exit 5); echo $?; exit 6"});
  expect_same(
      {"/bin/bash", "-c", "for i in 1 2 3; do /bin/echo $i; done; cat <(echo one) | tr o 0"});
}

TEST_F(ProcessesTest, ScriptsAndTheirInterpreters) {
  const std::string plain = write("plain", "#!/bin/sh\necho \"$0 $# $*\"\n", 0755);
  expect_same({plain, "a", "b c"});
  const std::string with_argument =
      write("spaced", "#!  /bin/sh  -e \nfalse\necho not reached\n", 0755);
  EXPECT_EQ(expect_same({"/bin/sh", "-c", with_argument + "; echo $?"}).out, "1\n");
  const std::string nested = write("nested", "#!" + plain + " first\n", 0755);
  expect_same({nested, "second"});
  // Whoever starts it finds out what is wrong with it.
  write("lost", "#!/no/such/interpreter\n", 0755);
  write("bare", "echo a shell runs it itself\n", 0755);
  write("plain_text", "#!/bin/sh\n", 0644);
  for (const char* name : {"lost", "bare", "plain_text"}) {
    expect_same({"/bin/bash", "-c", std::string("./") + name + "; echo $?"});
  }
  write("loop", "#!" + path("loop") + "\n", 0755);
  EXPECT_NE(run_inside({"/bin/bash", "-c", "./loop; echo $?"}).out, "0\n");
}

TEST_F(ProcessesTest, ProgramsAndScriptsByDescriptor) {
  const std::string script = write("script", "#!/bin/sh\necho \"$0 $#\"\n", 0755);
  std::filesystem::create_symlink(script, path("link"));
  const RunResult inside = expect_same({built("by_descriptor"), script, path("")});
  EXPECT_EQ(inside.out.find("/dev/fd/"), 0u) << inside.out;
  EXPECT_NE(inside.out.find(" 1\na script: 0\n"), std::string::npos) << inside.out;
}

// Of a script's first line Linux reads 255 bytes.
TEST_F(ProcessesTest, ScriptsWithLongFirstLines) {
  const std::string argument = write("argument", "#!/bin/echo " + std::string(400, 'a'), 0755);
  expect_same({argument, "b"});
  for (std::size_t length = 252; length <= 257; ++length) {
    const std::string name = std::string(length - 10, '/') + "bin/echo";
    for (const char* rest : {"\n", " x\n", "\t", ""}) {
      write("long", "#!" + name + rest, 0755);
      expect_same({"/bin/bash", "-c", "./long y; echo $?"});
    }
  }
}

TEST_F(ProcessesTest, ScriptsThatAreRunByScripts) {
  // The shorter one's line ends with its file.
  const std::string shorter = write("shorter", "#!/bin/echo", 0755);
  expect_same({write("longer", "#!" + shorter + " and more\n# and more", 0755)});

  std::string interpreter = "/bin/echo";
  for (int i = 1; i <= 6; ++i) {
    interpreter = write("script" + std::to_string(i), "#!" + interpreter + "\n", 0755);
  }
  expect_same({path("script5"), "five are enough"});
  EXPECT_EQ(run_inside({path("script6"), "six are too many"}).code, 126);
  expect_same({"/bin/bash", "-c", "./script5; ./script6; echo $?"});
}

TEST_F(ProcessesTest, ChildrenAreRunInsideToo) {
  const RunResult inside =
      run_inside({"/bin/sh", "-c", built("static_where") + " & wait; " + built("static_where")},
                 {"--elrange", "1G"});
  std::istringstream words(inside.out);
  int count = 0;
  for (std::string word; words >> word; ++count) {
    EXPECT_LT(std::stoull(word, nullptr, 16), 1ull << 30) << inside.out;
  }
  EXPECT_EQ(count, 14) << inside.out << inside.err;
}

TEST_F(ProcessesTest, ExecUnderExec) {
  EXPECT_EQ(run_inside({tool(), "exec", "--", "/bin/echo", "nested"}).out, "nested\n");
}

TEST_F(ProcessesTest, TheSystemShowsTheProgram) {
  expect_same({"/bin/sh", "-c", "cat /proc/self/comm; tr '\\0' ' ' < /proc/self/cmdline"});
  expect_same({"/bin/readlink", "/proc/self/exe"});
  expect_same({"/bin/sh", "-c", "readlink -f /proc/self/exe"});
}

}  // namespace
}  // namespace exclave::loader
