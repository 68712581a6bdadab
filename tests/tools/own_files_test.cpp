// The files of a run: none that it reads is ever written over, none has a name before it is
// complete, and none is left by a run that ends early.
#include <sys/prctl.h>

#include <csignal>
#include <cstring>

#include "call_filter.hpp"
#include "support/sanitizers.hpp"
#include "watched_run.hpp"

namespace exclave::tools {
namespace {

enum Code { kOk = 0, kUsage = 2, kOutput = 4, kKey = 6 };

// ---- One file under two names ----

class SharedFilesTest : public ToolTest {
 protected:
  using Words = std::vector<std::string>;

  void SetUp() override {
    ToolTest::SetUp();
    seal_something();
    for (const char* name : {"in", "key", "sealed"}) before_[name] = text(name);
    ASSERT_EQ(::link(path("key").c_str(), path("hard").c_str()), 0);
    ASSERT_EQ(::symlink("key", path("soft").c_str()), 0);
    ASSERT_EQ(::symlink("soft", path("softer").c_str()), 0);
    ASSERT_EQ(::symlink(".", path("here").c_str()), 0);
    ASSERT_EQ(::symlink("here/new", path("to_new").c_str()), 0);
    ASSERT_EQ(::symlink("circle", path("circle").c_str()), 0);
    names_ = names();
  }
  // Refused with one line that ends so, and every file is what it was.
  void expect_refused(const Words& arguments, const std::string& words) {
    const ToolResult result = run(arguments);
    EXPECT_EQ(result.code, kUsage) << result.err;
    EXPECT_EQ(result.err, "exclave: " + words + " are the same file\n");
    EXPECT_EQ(result.out, "");
    expect_unchanged();
  }
  void expect_unchanged() {
    for (const auto& [name, bytes] : before_) EXPECT_TRUE(text(name) == bytes) << name;
    EXPECT_EQ(names(), names_);
  }

  std::map<std::string, std::string> before_;
  std::set<std::string> names_;
};

TEST_F(SharedFilesTest, TheKeyIsNeverTheOutput) {
  for (const std::string name : {"key", "./key", "hard", "soft", "softer", "here/key"}) {
    expect_refused({"seal", "--force", "--key-file", "key", "in", name},
                   name + ": OUTPUT and the key");
    expect_refused({"seal", "--force", "--key-file", name, "in", "key"}, "key: OUTPUT and the key");
    expect_refused({"unseal", "--force", "--key-file", name, "sealed", "key"},
                   "key: OUTPUT and the key");
    expect_refused({"seal", "--key-file", "key", "--report", name, "in", "new"},
                   name + ": the report and the key");
    expect_refused({"unseal", "--key-file", "key", "--report", name, "sealed", "new"},
                   name + ": the report and the key");
  }
  expect_refused({"seal", "--force", "--key-file", "key", "key", "key"}, "key: OUTPUT and INPUT");
}

TEST_F(SharedFilesTest, NorIsTheDefaultKey) {
  ASSERT_EQ(run({"keygen"}).code, kOk);
  const std::string key = ".config/exclave/key";
  before_[key] = text(key);
  names_ = names();
  expect_refused({"seal", "--report", key, "in", "new"}, key + ": the report and the key");
  expect_refused({"seal", "--force", "in", key}, key + ": OUTPUT and the key");
  expect_refused({"unseal", "--force", "sealed", key}, key + ": OUTPUT and the key");
}

TEST_F(SharedFilesTest, NorIsTheInput) {
  expect_refused({"seal", "--force", "--key-file", "key", "in", "here/in"},
                 "here/in: OUTPUT and INPUT");
  expect_refused({"unseal", "--force", "--key-file", "key", "sealed", "sealed"},
                 "sealed: OUTPUT and INPUT");
  expect_refused({"seal", "--key-file", "key", "--report", "in", "in", "new"},
                 "in: the report and INPUT");
  expect_refused({"unseal", "--key-file", "key", "--report", "here/sealed", "sealed", "new"},
                 "here/sealed: the report and INPUT");
}

TEST_F(SharedFilesTest, NamesOfFilesThatDoNotExistYet) {
  for (const std::string name : {"new", "./new", "here/new", "here/here/new", "to_new"}) {
    expect_refused({"seal", "--key-file", "key", "--report", name, "in", "new"},
                   name + ": the report and OUTPUT");
    expect_refused({"unseal", "--key-file", "key", "--report", "new", "sealed", name},
                   "new: the report and OUTPUT");
    expect_refused({"seal", "--new-key", "--key-file", name, "in", "new"},
                   "new: OUTPUT and the key");
    expect_refused({"seal", "--new-key", "--key-file", "new", "--report", name, "in", "other"},
                   name + ": the report and the key");
  }
  // Leads nowhere: whoever opens it says why.
  expect_failure(run({"seal", "--key-file", "key", "in", "circle"}), kOutput, "not a regular file",
                 "new");
  expect_failure(run({"seal", "--key-file", "key", "--report", "no/page", "in", "no/page"}),
                 kOutput, "No such file or directory", "new");
  expect_unchanged();
}

TEST_F(SharedFilesTest, WhatTheReportIsPrintedTo) {
  for (const std::string name : {"in", "key"}) {
    const ToolResult result = run({"seal", "--key-file", "key", "in", "new"}, [this, &name] {
      ::dup2(::open(path(name).c_str(), O_WRONLY | O_APPEND), 1);
    });
    EXPECT_EQ(result.code, kUsage) << result.err;
    EXPECT_NE(result.err.find("standard output and "), std::string::npos) << result.err;
    expect_unchanged();
  }
  // Only files can be written over.
  EXPECT_EQ(run({"seal", "--key-file", "key", "in", "new"}, [] { ::close(1); }).code, kOutput);
}

TEST_F(SharedFilesTest, AReportThatNobodyReadsIsAnErrorOfTheRun) {
  const ToolResult result = run({"seal", "--key-file", "key", "in", "new"}, [] {
    int ends[2];
    if (::pipe(ends) != 0) ::_exit(125);
    ::dup2(ends[1], 1);
    ::close(ends[0]);
    ::close(ends[1]);
  });
  EXPECT_EQ(result.code, kOutput);
  EXPECT_EQ(result.err, "exclave: the report cannot be printed; new is complete\n");
  EXPECT_TRUE(exists("new"));
}

TEST_F(SharedFilesTest, TraceOfExec) {
  std::filesystem::copy("/bin/true", path("program"));
  write("device", "what it maps");
  ASSERT_EQ(::symlink("program", path("alias").c_str()), 0);
  const std::string program = text("program");
  for (const auto& [trace, file] : std::initializer_list<std::pair<std::string, std::string>>{
           {"program", "./program"}, {"alias", "./program"}, {"here/device", "device"}}) {
    const ToolResult result =
        run({"exec", "--trace=" + trace, "--allow-device", "device", "--", "./program"});
    EXPECT_EQ(result.code, kUsage);
    EXPECT_EQ(result.err, "exclave: exec: --trace: would overwrite " + file + "\n");
  }
  EXPECT_TRUE(text("program") == program);
  EXPECT_EQ(text("device"), "what it maps");
}

// ---- Names that change while it runs ----

using MovedFilesTest = WatchedRunTest;

// The last moment: the output is complete and is brought to disk.
TEST_F(MovedFilesTest, WhatIsReadIsNotReplacedUnderAnotherName) {
  for (const std::string moved : {"key", "in"}) {
    seal_something(50000, {"--force"});
    write("new", "whatever stood there");
    const std::string bytes = text(moved);
    bool done = false;
    const ToolResult result =
        watch({"seal", "--force", "--key-file", "key", "in", "new"}, [&](const WatchedCall& call) {
          if (call.number == SYS_fsync && !done) {
            done = true;
            std::filesystem::rename(path(moved), path("new"));
          }
        });
    EXPECT_TRUE(done);
    EXPECT_EQ(result.code, kOutput);
    EXPECT_EQ(result.err, "exclave: new: has become another file of this run\n");
    EXPECT_TRUE(text("new") == bytes);
    std::filesystem::rename(path("new"), path(moved));
  }
  EXPECT_EQ(names(), (std::set<std::string>{"in", "key", "sealed"}));
}

TEST_F(MovedFilesTest, NorDoesTheReportReplaceTheOutput) {
  seal_something();
  bool done = false;
  const ToolResult result = watch({"seal", "--key-file", "key", "--report", "page", "in", "new"},
                                  [&](const WatchedCall& call) {
                                    if (call.number == SYS_fsync && exists("new") && !done) {
                                      done = true;
                                      std::filesystem::rename(path("new"), path("page"));
                                    }
                                  });
  EXPECT_TRUE(done);
  EXPECT_EQ(result.code, kOutput);
  EXPECT_EQ(result.err, "exclave: page: has become another file of this run\n");
  EXPECT_EQ(text("page").substr(0, 8), "EXCLAVE1");
}

TEST_F(MovedFilesTest, WithoutForceNothingThatCameMeanwhileIsReplaced) {
  seal_something();
  for (const auto& in_child :
       {std::function<void()>{}, std::function<void()>{forbid_nameless_files},
        std::function<void()>{[] {
          forbid_nameless_files();
          forbid_rename_flags();
        }}}) {
    const ToolResult result = watch(
        {"seal", "--key-file", "key", "in", "new"},
        [&](const WatchedCall& call) {
          if (call.number == SYS_fsync) write("new", "precious");
        },
        in_child);
    EXPECT_EQ(result.code, kOutput);
    EXPECT_EQ(result.err,
              "exclave: new: was made by someone else meanwhile; --force replaces it\n");
    EXPECT_EQ(text("new"), "precious");
    std::filesystem::remove(path("new"));
    EXPECT_EQ(names(), (std::set<std::string>{"in", "key", "sealed"}));
  }
}

// ---- What a signal leaves ----

// The signals that end a program that does nothing about them.
std::vector<int> ending_signals() {
  std::vector<int> all{SIGHUP,  SIGINT,  SIGQUIT, SIGILL,  SIGTRAP,  SIGABRT,   SIGBUS,  SIGFPE,
                       SIGUSR1, SIGSEGV, SIGUSR2, SIGALRM, SIGTERM,  SIGSTKFLT, SIGXCPU, SIGVTALRM,
                       SIGPROF, SIGIO,   SIGPWR,  SIGSYS,  SIGRTMIN, SIGRTMAX};
  return all;
}

class SignalsTest : public WatchedRunTest {
 protected:
  void SetUp() override {
    ToolTest::SetUp();
    seal_something();
    before_ = names();
    if (testing_support::kThreadSanitized) GTEST_SKIP() << "it puts signals off";
  }
  // Ends the run at that call, when all of the output has been written; nothing may be left.
  void end_at(const std::vector<std::string>& arguments, int signal_number,
              const std::function<bool(const WatchedCall&)>& at,
              const std::function<void()>& in_child = {}) {
    bool sent = false;
    const ToolResult result = watch(
        arguments,
        [&](const WatchedCall& call) {
          if (!sent && at(call)) {
            sent = true;
            send(signal_number);
          }
        },
        in_child);
    EXPECT_TRUE(sent);
    EXPECT_EQ(result.signal, signal_number) << "code " << result.code << ' ' << result.err;
    EXPECT_EQ(names(), before_) << "after signal " << signal_number;
  }
  static bool is_sync(const WatchedCall& call) { return call.number == SYS_fsync; }

  std::set<std::string> before_;
};

TEST_F(SignalsTest, NoneLeavesAnything) {
  for (const int signal_number :
       {SIGQUIT, SIGXCPU, SIGALRM, SIGUSR1, SIGUSR2, SIGTERM, SIGSEGV, SIGKILL}) {
    end_at({"unseal", "--key-file", "key", "sealed", "out"}, signal_number, is_sync);
  }
  write("out", "precious");
  before_ = names();
  end_at({"seal", "--force", "--key-file", "key", "in", "out"}, SIGKILL, is_sync);
  end_at({"keygen", "more"}, SIGKILL, is_sync);
  EXPECT_TRUE(text("out") == "precious");
}

TEST_F(SignalsTest, NorWhereEveryFileHasAName) {
  for (const int signal_number : ending_signals()) {
    end_at({"unseal", "--key-file", "key", "sealed", "out"}, signal_number, is_sync,
           forbid_nameless_files);
  }
}

// Between the two calls that a replacement takes: the kernel ends the first one before it delivers
// the signal.
TEST_F(SignalsTest, NorInTheMiddleOfAReplacement) {
  write("out", "precious");
  before_ = names();
  for (const int signal_number : {SIGQUIT, SIGXCPU, SIGALRM, SIGUSR1, SIGUSR2, SIGTERM}) {
    end_at({"unseal", "--force", "--key-file", "key", "sealed", "out"}, signal_number,
           [](const WatchedCall& call) { return call.number == SYS_linkat; });
    EXPECT_TRUE(text("out") == "precious");
  }
}

TEST_F(SignalsTest, WhatIsIgnoredStaysIgnored) {
  bool sent = false;
  const ToolResult result = watch(
      {"unseal", "--key-file", "key", "sealed", "out"},
      [&](const WatchedCall& call) {
        if (is_sync(call) && !sent) {
          sent = true;
          for (const int signal_number : {SIGHUP, SIGWINCH, SIGCHLD, SIGCONT, SIGURG}) {
            send(signal_number);
          }
        }
      },
      [] { ::signal(SIGHUP, SIG_IGN); });
  EXPECT_TRUE(sent);
  EXPECT_EQ(result.code, kOk) << result.signal << ' ' << result.err;
}

// ---- What is brought to disk, and when ----

class DiskTest : public WatchedRunTest {
 protected:
  // "sync FILE" and "name FILE", in their order; a file without a name is "?", this folder ".".
  std::vector<std::string> steps(const std::vector<std::string>& arguments,
                                 const std::function<void()>& in_child = {}) {
    std::vector<std::string> found;
    const ToolResult result = watch(
        arguments,
        [&](const WatchedCall& call) {
          if (call.number == SYS_fsync || call.number == SYS_fdatasync) {
            found.push_back("sync " + plain(call.file(0)));
          } else if (call.number == SYS_linkat) {
            found.push_back("name " + plain(call.name(3)));
          } else if (call.number == SYS_renameat || call.number == SYS_renameat2) {
            found.push_back("name " + plain(call.name(3)));
          }
        },
        in_child);
    EXPECT_EQ(result.code, kOk) << result.err;
    return found;
  }
  std::string plain(const std::string& file) const {
    if (file.find("(deleted)") != std::string::npos) return "?";
    if (file.find(".exclave-") != std::string::npos) return ".partial";
    if (file == folder_.string()) return ".";
    const std::string in_folder = folder_.string() + "/";
    return file.rfind(in_folder, 0) == 0 ? file.substr(in_folder.size()) : file;
  }
  using Steps = std::vector<std::string>;
};

TEST_F(DiskTest, AKeyAndItsFolders) {
  EXPECT_EQ(steps({"keygen", "key"}), (Steps{"sync ?", "name key", "sync ."}));
  EXPECT_EQ(steps({"keygen"}),
            (Steps{"sync .", "sync .config", "sync ?", "name key", "sync .config/exclave"}));
  EXPECT_EQ(steps({"keygen", "a/b/key"}),
            (Steps{"sync .", "sync a", "sync ?", "name key", "sync a/b"}));
}

TEST_F(DiskTest, AnOutputAndAPage) {
  seal_something();
  EXPECT_EQ(steps({"seal", "--io", "pread", "--key-file", "key", "--report", "page", "in", "out"}),
            (Steps{"sync ?", "sync ?", "name out", "sync .", "sync ?", "name .partial", "name page",
                   "sync ."}));
  EXPECT_EQ(steps({"unseal", "--force", "--key-file", "key", "out", "back"}),
            (Steps{"sync ?", "name .partial", "name back", "sync ."}));
  EXPECT_EQ(steps({"unseal", "--force", "--key-file", "key", "out", "back"}, forbid_nameless_files),
            (Steps{"sync .partial", "name back", "sync ."}));
  EXPECT_EQ(steps({"unseal", "--key-file", "key", "out", "other"}, forbid_nameless_files),
            (Steps{"sync .partial", "name other", "sync ."}));
}

TEST_F(DiskTest, WhatCannotBeBroughtThereIsAnError) {
  seal_something();
  const std::set<std::string> before = names();
  expect_failure(run({"keygen", "out"}, forbid_sync), kKey, "key file out: Input/output error");
  expect_failure(run({"keygen", "a/out"}, forbid_sync), kKey, "key file a/out: Input/output error",
                 "a/out");
  std::filesystem::remove(path("a"));
  for (const std::string engine : {"auto", "pread"}) {
    expect_failure(run({"seal", "--io", engine, "--key-file", "key", "in", "out"}, forbid_sync),
                   kOutput, "out: Input/output error");
  }
  expect_failure(run({"unseal", "--key-file", "key", "sealed", "out"}, forbid_sync), kOutput,
                 "out: Input/output error");
  EXPECT_EQ(names(), before);
}

// ---- File systems that know no files without a name ----

class NamedFilesTest : public ToolTest {};

TEST_F(NamedFilesTest, ComeBackAllTheSame) {
  ASSERT_EQ(run({"keygen", "key"}, forbid_nameless_files).code, kOk);
  write("in", random_bytes_of(50000));
  write("there", "before");
  for (const auto& more : {std::function<void()>{}, std::function<void()>{forbid_rename_flags}}) {
    const auto in_child = [&more] {
      forbid_nameless_files();
      if (more) more();
    };
    ASSERT_EQ(run({"seal", "--key-file", "key", "in", "sealed"}, in_child).code, kOk);
    ASSERT_EQ(run({"unseal", "--force", "--key-file", "key", "sealed", "there"}, in_child).code,
              kOk);
    EXPECT_TRUE(text("there") == text("in"));
    EXPECT_EQ(names(), (std::set<std::string>{"in", "key", "sealed", "there"}));
    std::filesystem::remove(path("sealed"));
  }
}

}  // namespace
}  // namespace exclave::tools
