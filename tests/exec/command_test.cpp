// The command itself: what it says when something is wrong, trace and summary.
#include <regex>

#include "exec/exec_fixture.hpp"

namespace exclave::loader {
namespace {

class ExecCommandTest : public ExecTest {
 protected:
  void expect_refused(const RunResult& result, int code, const std::string& words) const {
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_EQ(result.err.rfind("exclave: ", 0), 0u) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_NE(result.err.find(words), std::string::npos) << result.err;
    EXPECT_EQ(result.out, "");
  }
};

TEST_F(ExecCommandTest, WhatCannotBeRun) {
  expect_refused(run({tool(), "exec"}), 2, "PROGRAM");
  expect_refused(run_inside({"no-such-program"}), 127, "exec: no-such-program: not found");
  expect_refused(run_inside({""}), 127, "not found");
  expect_refused(run_inside({"/no/such/program"}), 127, "exec: /no/such/program: no such file");
  expect_refused(run_inside({"/"}), 126, "exec: /: not executable");
  expect_refused(run_inside({write("plain", "text", 0644)}), 126, "not executable");
  expect_refused(run_inside({write("text", "text", 0755)}), 126, "not a program");
  expect_refused(run_inside({write("short",
                                   "\x7f"
                                   "ELF",
                                   0755)}),
                 126, "not a program");
  std::string foreign = text_of("/bin/true");
  foreign[18] = 0x28;  // another processor
  expect_refused(run_inside({write("foreign", foreign, 0755)}), 126,
                 "not a program for 64-bit x86");
  std::string lost = text_of("/bin/true");
  lost.replace(lost.find("/lib64/ld-"), 10, "/lib64/xx-");
  expect_refused(run_inside({write("lost", lost, 0755)}), 127, "no such file");
  expect_refused(run_inside({write("script", "#!/no/such/shell\n", 0755)}), 127, "/no/such/shell");
}

TEST_F(ExecCommandTest, OptionsThatMakeNoSense) {
  expect_refused(run_inside({"/bin/true"}, {"--elrange", "3G"}), 2, "--elrange");
  expect_refused(run_inside({"/bin/true"}, {"--elrange", "128M"}), 2, "--elrange");
  expect_refused(run_inside({"/bin/true"}, {"--elrange", "64T"}), 2, "--elrange");
  expect_refused(run_inside({"/bin/true"}, {"--elrange", "much"}), 2, "--elrange");
  expect_refused(run_inside({"/bin/true"}, {"--elrange", "0"}), 2, "--elrange");
  expect_refused(run_inside({"/bin/true"}, {"--bogus"}), 2, "--bogus");
  expect_refused(run_inside({"/bin/true"}, {"--allow-device", ""}), 2, "--allow-device");
  expect_refused(run_inside({"/bin/true"}, {"--trace=/no/such/folder/file"}), 1,
                 "cannot be written");
  // Only `exclave exec` knows how to start the loader.
  expect_refused(run({EXCLAVE_BUILD_DIR "/exclave-loader"}), 1, "is started by");
  expect_refused(run({EXCLAVE_BUILD_DIR "/exclave-loader", "a", "b", "c", "d"}), 1,
                 "is started by");
}

TEST_F(ExecCommandTest, ProgramsAreFoundAsAShellFindsThem) {
  EXPECT_EQ(run_inside({"echo", "found"}).out, "found\n");
  EXPECT_EQ(run({tool(), "exec", "echo", "no dashes"}).out, "no dashes\n");
  // What follows the dashes is the program's own.
  const Words options{"--allow-device", "/dev/zero", "--allow-device", "/dev/null"};
  EXPECT_EQ(run_inside({"echo", "-n", "--stats", "--", "--trace"}, options).out,
            "--stats -- --trace");
}

TEST_F(ExecCommandTest, TheLoaderIsFoundWhereItIsInstalled) {
  namespace fs = std::filesystem;
  fs::create_directories(path("bin"));
  fs::create_directories(path("libexec/exclave"));
  fs::copy_file(tool(), path("bin/exclave"));
  expect_refused(run({path("bin/exclave"), "exec", "--", "/bin/echo", "none"}), 1,
                 "exclave-loader");
  fs::copy_file(EXCLAVE_BUILD_DIR "/exclave-loader", path("libexec/exclave/exclave-loader"));
  EXPECT_EQ(run({path("bin/exclave"), "exec", "--", "/bin/echo", "installed"}).out, "installed\n");
}

TEST_F(ExecCommandTest, SmallAndLargeRanges) {
  for (const char* size : {"256M", "1G", "1T", "16T"}) {
    EXPECT_EQ(run_inside({"/bin/echo", size}, {"--elrange", size}).out, std::string(size) + "\n");
  }
  // What does not fit, does not.
  const RunResult full =
      run_inside({"/usr/bin/python3", "-c", "bytearray(1 << 30)"}, {"--elrange", "256M"});
  EXPECT_EQ(full.code, 1);
  EXPECT_NE(full.err.find("MemoryError"), std::string::npos) << full.err;
}

TEST_F(ExecCommandTest, TraceTellsEachCall) {
  const RunResult inside = run_inside({built("static_where")}, {"--trace"});
  EXPECT_EQ(inside.code, 0);
  std::istringstream lines(inside.err);
  const std::regex form(
      "\\[[0-9]+\\] [a-z0-9_]+\\(.*\\) = (0x[0-9a-f]+|-?[0-9]+)( [A-Z]+)? "
      "<(inside|outside|split|refused)>");
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    EXPECT_TRUE(std::regex_match(line, form)) << line;
  }
  EXPECT_GE(count, 3);
  EXPECT_NE(inside.err.find("mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0x0) = 0x"),
            std::string::npos)
      << inside.err;
}

TEST_F(ExecCommandTest, TraceToAFileAlsoWhenTheProgramClosesEverything) {
  const RunResult inside =
      run_inside({"/usr/bin/python3", "-c",
                  "import os, mmap; os.closerange(3, 1000); print('closed'); mmap.mmap(-1, 77777)"},
                 {"--trace=" + path("trace")});
  EXPECT_EQ(inside.out, "closed\n");
  // Before that in the file, after that on standard error.
  EXPECT_NE(text("trace").find("brk(NULL)"), std::string::npos);
  EXPECT_EQ(text("trace").find("77777"), std::string::npos);
  EXPECT_NE(inside.err.find("77777"), std::string::npos);
}

// The first file that the program opens gets the number of standard error.
TEST_F(ExecCommandTest, WithoutStandardErrorTheProgramsFilesAreItsOwn) {
  const std::string script = write("script",
                                   "import os\nos.write(os.open('mine', os.O_RDWR | "
                                   "os.O_CREAT), b'its own')\nbytearray(1 << 24)\n");
  for (const char* options : {"--trace", "--stats", "--trace=trace"}) {
    const std::string command =
        "exec " + tool() + " exec " + options + " -- /usr/bin/python3 " + script + " 2>&-";
    EXPECT_EQ(run({"/bin/sh", "-c", command}).code, 0) << options;
    EXPECT_EQ(text("mine"), "its own") << options;
    std::filesystem::remove(path("mine"));
  }
  EXPECT_NE(text("trace").find("brk(NULL)"), std::string::npos);
}

TEST_F(ExecCommandTest, ThreadsAndProcessesDoNotMixTheirLines) {
  const RunResult inside =
      run_inside({built("processes")}, {"--trace=" + path("trace"), "--stats"});
  EXPECT_EQ(inside.code, 0);
  std::ifstream file(path("trace"));
  const std::regex form("(\\[[0-9]+\\] [a-z0-9_]+\\(.*\\) = .* <[a-z]+>)|(exclave: [0-9]+: .*)");
  int count = 0;
  for (std::string line; std::getline(file, line); ++count) {
    if (!std::regex_match(line, form)) {
      ADD_FAILURE() << line;
      break;
    }
  }
  EXPECT_GT(count, 1000);
}

TEST_F(ExecCommandTest, StatsSumUpEachProcess) {
  const RunResult inside = run_inside({"/bin/sh", "-c", "/bin/true; /bin/true; :"}, {"--stats"});
  const std::regex form(
      "exclave: [0-9]+: calls: [0-9]+ inside, 0 outside, 0 split, 0 refused; inside: [0-9]+ areas, "
      "[0-9]+ KiB, peak [0-9]+ KiB, [0-9]+ shared maps; outside: 0 regions, 0 KiB, 0 device maps; "
      "books: [0-9]+ KiB; lies refused: 0");
  std::istringstream lines(inside.err);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    EXPECT_TRUE(std::regex_match(line, form)) << line;
  }
  EXPECT_EQ(count, 3) << inside.err;
}

}  // namespace
}  // namespace exclave::loader
