// What execve says of a file before it runs it: rights that the file would give, and writers of it.
#include <sys/syscall.h>

#include <cerrno>

#include "exec/exec_fixture.hpp"

namespace exclave::loader {
namespace {

class RightsTest : public ExecTest {
 protected:
  // A copy of echo that sets another user, and everybody may come to it. Empty: not without rights.
  std::string echo_of_another_user() const {
    std::filesystem::permissions(folder_, std::filesystem::perms(0755));
    std::filesystem::copy_file("/bin/echo", path("other"));
    if (::chown(path("other").c_str(), 1, 1) != 0) return {};
    EXPECT_EQ(::chmod(path("other").c_str(), 04755), 0);
    return path("other");
  }
  static bool can(const std::string& program) { return ::access(program.c_str(), X_OK) == 0; }
};

TEST_F(RightsTest, WithoutNewRightsNobodyGainsAny) {
  const std::string echo = echo_of_another_user();
  if (echo.empty() || !can("/usr/bin/setpriv")) GTEST_SKIP() << "not without rights";
  const Words before{"/usr/bin/setpriv", "--no-new-privs"};
  const auto with = [&](const Words& more) {
    Words words = before;
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  };
  for (const Words& words :
       {Words{echo, "runs"}, Words{"/bin/sh", "-c", echo + " runs; echo $?"}}) {
    Words inside{tool(), "exec", "--"};
    inside.insert(inside.end(), words.begin(), words.end());
    const RunResult native = with(words), ours = with(inside);
    EXPECT_EQ(ours.out, native.out) << ours.err;
    EXPECT_EQ(ours.out.rfind("runs\n", 0), 0u) << ours.err;
    EXPECT_EQ(ours.code, 0) << ours.err;
  }
  // Whoever would gain some is told that he cannot here.
  const RunResult gains = run_inside({echo, "runs"});
  EXPECT_EQ(gains.code, 126);
  EXPECT_NE(gains.err.find("runs with another's rights"), std::string::npos) << gains.err;
  // Of a program inside that takes no_new_privs itself.
  expect_same({"/usr/bin/setpriv", "--no-new-privs", echo, "runs"});
}

// Without rights over the system, exec itself takes no_new_privs.
TEST_F(RightsTest, NobodyRunsTheProgramsOfRoot) {
  const Words nobody{"/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"};
  const bool root = ::geteuid() == 0;
  if ((root && !can(nobody[0])) || !can("/bin/su")) GTEST_SKIP() << "su or setpriv is missing";
  const auto as_nobody = [&](const Words& more) {
    Words words = root ? nobody : Words{};
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  };
  std::filesystem::permissions(folder_, std::filesystem::perms(0777));
  if (as_nobody({tool(), "--version"}).code != 0) GTEST_SKIP() << "nobody may not come here";
  for (const Words& words : {Words{"/bin/su", "--version"}, Words{"/bin/mount", "--version"},
                             Words{"/bin/sh", "-c", "su --version; mount --version; echo $?"}}) {
    if (!can(words[0])) continue;
    Words inside{tool(), "exec", "--"};
    inside.insert(inside.end(), words.begin(), words.end());
    const RunResult native = as_nobody(words), ours = as_nobody(inside);
    EXPECT_EQ(native.code, 0) << native.err;
    EXPECT_EQ(ours.out, native.out);
    EXPECT_EQ(ours.err, native.err);
    EXPECT_EQ(ours.code, native.code);
  }
}

// Linux does not look at such bits of a script, nor of a library loader.
TEST_F(RightsTest, ScriptsGiveNobodyAnything) {
  const std::string script = write("script", "#!/bin/sh\necho \"runs $1\"\n", 0755);
  if (::chown(script.c_str(), 1, 1) != 0) GTEST_SKIP() << "not without rights";
  ASSERT_EQ(::chmod(script.c_str(), 06755), 0);
  EXPECT_EQ(expect_same({script, "once"}).out, "runs once\n");
  EXPECT_EQ(expect_same({"/bin/bash", "-c", script + " twice"}).out, "runs twice\n");
}

TEST_F(RightsTest, WhatSomebodyWritesIsNotRun) {
  constexpr long kOnlyCheck = 0x10000;  // AT_EXECVE_CHECK, since Linux 6.14
  const char* const words[] = {"", nullptr};
  const bool knows =
      ::syscall(SYS_execveat, AT_FDCWD, "/bin/true", words, words + 1, kOnlyCheck) == 0;
  if (!knows) GTEST_SKIP() << "the kernel does not tell";
  std::filesystem::copy_file("/bin/echo", path("busy"));
  const RunResult inside = expect_same(
      {"/bin/bash", "-c", "exec 9>>./busy; ./busy once; echo $?; exec 9>&-; ./busy on"});
  EXPECT_EQ(inside.out, "126\non\n");
  write("script", "#!/bin/echo\n", 0755);
  expect_same({"/bin/bash", "-c", "exec 9>>./script; ./script; echo $?"});
  const int writer = ::open(path("busy").c_str(), O_WRONLY | O_CLOEXEC);
  const RunResult first = run_inside({path("busy"), "not run"});
  ::close(writer);
  EXPECT_EQ(first.code, 126);
  EXPECT_EQ(first.err, "exclave: exec: " + path("busy") + ": open for writing\n");
}

}  // namespace
}  // namespace exclave::loader
