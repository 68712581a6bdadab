// What people read: lists of blocks, sizes, the page.
#include <gtest/gtest.h>

#include "tools/html_text.hpp"
#include "tools/run_report.hpp"
#include "tools/tamper_list.hpp"

namespace exclave::tools {
namespace {

TEST(TamperList, Reads) {
  EXPECT_EQ((TamperList{false, {}}).text(), "");
  EXPECT_EQ((TamperList{true, {}}).text(), "the header");
  EXPECT_EQ((TamperList{false, {3}}).text(), "block 3");
  EXPECT_EQ((TamperList{false, {3, 4}}).text(), "blocks 3, 4");
  EXPECT_EQ((TamperList{true, {0, 1, 2, 3, 9}}).text(), "the header and blocks 0-3, 9");
  EXPECT_EQ((TamperList{false, {1, 3, 5, 7, 9}}).text(2), "blocks 1, 3 and 3 more");
}

TEST(Figures, Read) {
  EXPECT_EQ(size_text(0), "0 B");
  EXPECT_EQ(size_text(1023), "1023 B");
  EXPECT_EQ(size_text(1536), "1.5 KiB");
  EXPECT_EQ(size_text(9 << 20), "9 MiB");
  EXPECT_EQ(count_text(0), "0");
  EXPECT_EQ(count_text(999), "999");
  EXPECT_EQ(count_text(1000), "1,000");
  EXPECT_EQ(count_text(1234567), "1,234,567");
  EXPECT_EQ(rate_text(1.234e9), "1.23 GB/s");
  EXPECT_EQ(rate_text(56.7e6), "56.7 MB/s");
}

TEST(HtmlText, Escapes) {
  EXPECT_EQ(html_escaped("<a href=\"x\">&</a>\n"), "&lt;a href=&quot;x&quot;&gt;&amp;&lt;/a&gt;?");
  EXPECT_EQ(svg_number(1.0 / 3), "0.33");
  EXPECT_EQ(svg_number(14), "14");
}

TEST(HtmlReport, StandsAloneAndIsEscaped) {
  RunReport report;
  report.command = "seal";
  report.input = "<script>alert(1)</script>";
  report.output = "out";
  report.blocks = 3;
  report.tampered.blocks = {1};
  report.phases = {{"seal", 1000, 0.5, {{0.1, 200}, {0.5, 1000}}}, {"sync", 0, 0.1, {}}};
  report.ending = {{"act", "answer", true}};
  const std::string page = html_report(report);
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_EQ(page.find("http"), std::string::npos) << "the page loads nothing";
  EXPECT_NE(page.find("&lt;script&gt;"), std::string::npos);
  EXPECT_NE(page.find("block 1"), std::string::npos);
  EXPECT_EQ(page.find("nan"), std::string::npos);
  EXPECT_EQ(page.find("inf"), std::string::npos);
}

TEST(HeapMap, Fragmentation) {
  const auto run = [](std::uintptr_t base, std::size_t size, RunInfo::Kind kind) {
    RunInfo info;
    info.extent = {base, size};
    info.kind = kind;
    return info;
  };
  HeapMap map;
  EXPECT_EQ(map.fragmentation(), 0.0);
  map.regions.emplace_back();
  map.regions[0].runs = {run(0, 100, RunInfo::Kind::kFree), run(100, 100, RunInfo::Kind::kFree),
                         run(200, 100, RunInfo::Kind::kBlock), run(300, 200, RunInfo::Kind::kFree)};
  EXPECT_EQ(map.regions[0].free_bytes(), 400u);
  EXPECT_EQ(map.regions[0].largest_free_bytes(), 200u) << "free neighbours are one piece";
  EXPECT_DOUBLE_EQ(map.fragmentation(), 0.5);
}

}  // namespace
}  // namespace exclave::tools
