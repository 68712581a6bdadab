// The page that --report writes: one file, no script, nothing loaded from elsewhere.
#include <algorithm>
#include <cmath>
#include <string>

#include "tools/html_heap_map.hpp"
#include "tools/html_text.hpp"
#include "tools/run_report.hpp"

namespace exclave::tools {
namespace {

constexpr const char* kStyle = R"css(
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#16202b;--soft:#5a6875;--line:#e3e7ec;
--block:#3d7fe0;--block2:#6ba0ee;--slab:#8b5cd6;--idle:#d9caf4;--idle2:#cdbaf0;--free:#e6eaef;--mapping:#20a08a;
--hatchink:rgba(255,255,255,.62);--good:#168a50;--goodbg:#e2f5ea;--bad:#c8323c;--badbg:#fdeaea;--sync:#b98a1e}
@media(prefers-color-scheme:dark){:root{--page:#0e1319;--card:#171e27;--ink:#e6ecf2;--soft:#93a1af;--line:#28323e;
--block:#4f8fec;--block2:#3672c8;--slab:#a584ea;--idle:#43355f;--idle2:#4d3d6d;--free:#242d38;--mapping:#25ab94;
--hatchink:rgba(8,14,22,.55);--good:#4cd08a;--goodbg:#12301f;--bad:#ff7a80;--badbg:#3a181b;--sync:#d9ad4a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
main{max-width:1040px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:26px;line-height:1.2;margin:0;letter-spacing:-.01em}
h2{font-size:17px;margin:0 0 2px}
header{display:flex;flex-wrap:wrap;align-items:center;gap:8px 14px}
header p{flex-basis:100%;margin:0;color:var(--soft);overflow-wrap:anywhere}
.verdict{padding:4px 12px;border-radius:99px;font-weight:600;font-size:14px;color:var(--good);background:var(--goodbg)}
.verdict.bad{color:var(--bad);background:var(--badbg)}
.alert{margin:18px 0 0;padding:12px 16px;border-radius:10px;color:var(--bad);background:var(--badbg);overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(142px,1fr));gap:12px;margin:22px 0}
.tile,section{background:var(--card);border:1px solid var(--line);border-radius:12px}
.tile{padding:14px 16px}
.tile b{display:block;white-space:nowrap;font-size:22px;line-height:1.2;font-variant-numeric:tabular-nums;letter-spacing:-.01em}
.tile span{color:var(--soft);font-size:13px}
.tile.bad b{color:var(--bad)}
section{padding:18px 20px 20px;margin-top:16px}
section>p{margin:0 0 14px;color:var(--soft)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:0 16px}
svg{display:block;width:100%;height:auto}
.region{margin:14px 0 0}
.region svg{border-radius:4px}
figcaption{display:flex;flex-wrap:wrap;gap:2px 12px;align-items:baseline;margin-bottom:6px;font-size:13px;color:var(--soft)}
figcaption b{color:var(--ink);font-size:14px}
code{font:12px ui-monospace,"DejaVu Sans Mono",monospace;color:var(--soft)}
.region small{color:var(--soft);font-size:12px}
.side{display:flex;flex-wrap:wrap;gap:0 32px}
.side svg{width:auto;min-width:42px;height:22px}
.side .region{min-width:200px}
.block rect,i.block{fill:var(--block);background:var(--block)}.block.odd rect{fill:var(--block2)}
.slab rect,i.slab{fill:var(--slab);background:var(--slab)}
.idle rect,i.idle{fill:var(--idle);background:var(--idle)}.idle.odd rect{fill:var(--idle2)}
.free rect,i.free{fill:var(--free);background:var(--free)}
.mapping rect,i.mapping{fill:var(--mapping);background:var(--mapping)}
.pinned rect{fill:var(--hatch)}
.hatch{fill:var(--hatchink)}
.cellline{fill:none;stroke:var(--card);stroke-width:2}
.legend{display:flex;flex-wrap:wrap;gap:4px 20px;font-size:13px;margin:16px 0 0!important}
.legend i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:7px;vertical-align:-1px}
i.hatched{background-image:repeating-linear-gradient(135deg,var(--hatchink) 0 2px,transparent 2px 5px)}
table{border-collapse:collapse;width:100%;font-size:14px}
td{padding:6px 0;border-top:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
tr:first-child td{border-top:0}
td:last-child{text-align:right;font-variant-numeric:tabular-nums;padding-left:14px}
td.zero{color:var(--soft)}
.facts td:last-child{text-align:left}
.facts td:first-child{color:var(--soft);width:150px}
.bars td:nth-child(2){width:45%;padding-left:14px;vertical-align:middle}
.bar{height:10px;border-radius:3px;background:var(--block);min-width:2px}
.ok{color:var(--good);font-weight:700}.no{color:var(--bad);font-weight:700}
.ending td:first-child{width:26px}
.ending td:last-child{color:var(--soft)}
.chart text{fill:var(--soft);font-size:11px;font-family:inherit}
.chart .grid{stroke:var(--line)}
.strip .good{fill:var(--mapping)}.strip .bad{fill:var(--bad)}
footer{margin-top:24px;color:var(--soft);font-size:13px}
@media(max-width:560px){main{padding:20px 14px}.side svg{max-width:100%}}
@media print{body{background:#fff}section,.tile{break-inside:avoid}}
)css";

std::string tile(const std::string& value, const std::string& what, bool bad = false) {
  return std::string("<div class=\"tile") + (bad ? " bad" : "") + "\"><b>" + html_escaped(value) +
         "</b><span>" + html_escaped(what) + "</span></div>";
}

std::string row(const std::string& name, const std::string& value, bool zero = false) {
  const std::string css = zero ? " class=\"zero\"" : "";
  return "<tr><td" + css + ">" + html_escaped(name) + "</td><td" + css + ">" + html_escaped(value) +
         "</td></tr>";
}

std::string section(const std::string& title, const std::string& words,
                    const std::string& content) {
  return "<section><h2>" + title + "</h2><p>" + words + "</p>" + content + "</section>";
}

const char* phase_colour(const std::string& what) {
  if (what == "sync") {
    return "var(--sync)";
  }
  return what == "verify" ? "var(--mapping)" : "var(--block)";
}

// Bytes a second over time: one curve for each part of the work, in the order in which they ran.
class ThroughputChart {
 public:
  explicit ThroughputChart(const RunReport& report) : report_(report) {
    for (const PhaseFigures& phase : report.phases) {
      seconds_ += phase.seconds;
      for (std::size_t bin = 0; bin < bins(phase); ++bin) {
        highest_ = std::max(highest_, rate(phase, bin));
      }
    }
    seconds_ = std::max(seconds_, 1e-6);
    top_ = nice_top(highest_);
  }

  std::string svg() const {
    std::string out =
        "<svg class=\"chart\" viewBox=\"0 0 1000 220\" role=\"img\" aria-label=\"throughput\">";
    constexpr int kLines = 4;
    for (int line = 0; line <= kLines; ++line) {
      const double value = top_ * line / kLines;
      out += "<line class=\"grid\" x1=\"70\" x2=\"1000\" y1=\"" + svg_number(y(value)) +
             "\" y2=\"" + svg_number(y(value)) + "\"/>";
      out += "<text x=\"62\" y=\"" + svg_number(y(value) + 4) + "\" text-anchor=\"end\">" +
             (line == 0 ? "0" : rate_text(value)) + "</text>";
    }
    double start = 0;
    for (const PhaseFigures& phase : report_.phases) {
      out += curve(phase, start);
      out += label(phase, start);
      start += phase.seconds;
    }
    return out + "</svg>";
  }

 private:
  static constexpr double kLeft = 70;
  static constexpr double kRight = 1000;
  static constexpr double kTop = 14;
  static constexpr double kBottom = 190;

  double x(double seconds) const { return kLeft + (kRight - kLeft) * seconds / seconds_; }
  double y(double rate) const { return kBottom - (kBottom - kTop) * rate / top_; }

  static double nice_top(double value) {
    const double power = std::pow(10, std::floor(std::log10(std::max(value, 1.0))));
    for (const double step : {1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0}) {
      if (value <= step * power) {
        return step * power;
      }
    }
    return 10 * power;
  }

  // Bins of at least this many samples and seconds smooth out single blocks.
  static std::size_t bins(const PhaseFigures& phase) {
    if (phase.samples.size() < 2) {
      return phase.bytes != 0 ? 1 : 0;
    }
    return std::clamp<std::size_t>(phase.samples.size() / 3, 1, 60);
  }
  static double bytes_at(const PhaseFigures& phase, double seconds) {
    PhaseFigures::Sample before{0, 0};
    for (const PhaseFigures::Sample& sample : phase.samples) {
      if (sample.seconds >= seconds) {
        const double length = sample.seconds - before.seconds;
        const double part = length > 0 ? (seconds - before.seconds) / length : 1;
        return static_cast<double>(before.bytes) +
               part * static_cast<double>(sample.bytes - before.bytes);
      }
      before = sample;
    }
    return static_cast<double>(phase.bytes);
  }
  static double rate(const PhaseFigures& phase, std::size_t bin) {
    const double length = phase.seconds / static_cast<double>(bins(phase));
    const double from = length * static_cast<double>(bin);
    return length > 0 ? (bytes_at(phase, from + length) - bytes_at(phase, from)) / length : 0;
  }

  std::string curve(const PhaseFigures& phase, double start) const {
    const std::string colour = phase_colour(phase.what);
    if (phase.bytes == 0) {
      return "<rect x=\"" + svg_number(x(start)) + "\" y=\"" + svg_number(kBottom - 3) +
             "\" width=\"" + svg_number(std::max(x(start + phase.seconds) - x(start), 1.0)) +
             "\" height=\"3\" fill=\"" + colour + "\"/>";
    }
    const std::size_t count = bins(phase);
    const double length = phase.seconds / static_cast<double>(count);
    std::string line;
    for (std::size_t bin = 0; bin < count; ++bin) {
      const double from = start + length * static_cast<double>(bin);
      const std::string height = svg_number(y(rate(phase, bin)));
      line += (bin == 0 ? "M" : "L") + svg_number(x(from)) + " " + height + "H" +
              svg_number(x(from + length));
    }
    const std::string base = svg_number(kBottom);
    return "<path d=\"" + line + "V" + base + "H" + svg_number(x(start)) + "Z\" fill=\"" + colour +
           "\" opacity=\".18\"/><path d=\"" + line + "\" fill=\"none\" stroke=\"" + colour +
           "\" stroke-width=\"2\" stroke-linejoin=\"round\"/>";
  }

  std::string label(const PhaseFigures& phase, double start) const {
    const double middle = (x(start) + x(start + phase.seconds)) / 2;
    const double width = x(start + phase.seconds) - x(start);
    // A short part's name would run into its neighbours.
    if (width < 60) {
      return "";
    }
    return "<text x=\"" + svg_number(middle) +
           "\" y=\"208\" text-anchor=\"middle\" style=\"fill:" + phase_colour(phase.what) +
           ";font-weight:600\">" + phase.what + " · " + seconds_text(phase.seconds) + "</text>";
  }

  const RunReport& report_;
  double seconds_ = 0;
  double highest_ = 0;
  double top_ = 1;
};

// All blocks of the file in order, the tampered ones in red. Many blocks share a cell of the
// picture.
std::string tamper_strip(const RunReport& report) {
  constexpr std::uint64_t kMostCells = 400;
  const std::uint64_t cells = std::min(report.blocks, kMostCells);
  const double width = 1000.0 / static_cast<double>(cells);
  std::string out =
      "<svg class=\"strip\" viewBox=\"0 0 1000 30\" preserveAspectRatio=\"none\" "
      "style=\"height:30px\""
      " role=\"img\" aria-label=\"tampered blocks\">";
  auto bad = report.tampered.blocks.begin();
  for (std::uint64_t cell = 0; cell < cells; ++cell) {
    const std::uint64_t end = (cell + 1) * report.blocks / cells;
    bool hit = false;
    while (bad != report.tampered.blocks.end() && *bad < end) {
      hit = true;
      ++bad;
    }
    out += "<rect class=\"" + std::string(hit ? "bad" : "good") + "\" x=\"" +
           svg_number(static_cast<double>(cell) * width) + "\" width=\"" +
           svg_number(std::max(width - (width > 3 ? 1 : 0), 0.5)) + "\" height=\"30\"/>";
  }
  return out + "</svg>";
}

std::string bars(const RunReport& report) {
  std::uint64_t most = 1;
  for (const auto& [kind, count] : report.host_calls) {
    most = std::max(most, count);
  }
  std::string out = "<table class=\"bars\">";
  for (const auto& [kind, count] : report.host_calls) {
    const double part = 100 * static_cast<double>(count) / static_cast<double>(most);
    out += "<tr><td>" + html_escaped(kind) +
           "</td><td><div class=\"bar\" style=\"width:" + svg_number(part) + "%\"></div></td><td>" +
           count_text(count) + "</td></tr>";
  }
  return out + "</table>";
}

std::string attacks(const RunReport& report) {
  std::string out = "<table>";
  for (std::size_t kind = 0; kind < AttackLog::kKinds; ++kind) {
    const auto attack = static_cast<Attack>(kind);
    const std::uint64_t count = report.attacks.count(attack);
    out += row(attack_text(attack), count_text(count), count == 0);
  }
  const std::uint64_t lies = report.lies_refused();
  out += row("other host replies that fail verification", count_text(lies), lies == 0);
  const std::uint64_t blocks = report.tampered.blocks.size();
  out += row("blocks whose ciphertext was tampered with", count_text(blocks), blocks == 0);
  return out + "</table>";
}

std::string ending(const RunReport& report) {
  std::string out = "<table class=\"ending\">";
  for (const EndingStep& step : report.ending) {
    out += std::string("<tr><td class=\"") + (step.as_it_should ? "ok\">✓" : "no\">✗") +
           "</td><td>" + html_escaped(step.act) + "</td><td>" + html_escaped(step.answer) +
           "</td></tr>";
  }
  return out + "</table>";
}

std::string facts(const RunReport& report) {
  const Statistics& busy = report.busy.statistics;
  std::string out = "<table class=\"facts\">";
  out += row("input", report.input);
  out += row("output", report.output);
  out += row("content", size_text(report.plaintext_bytes) + " in " + count_text(report.blocks) +
                            (report.blocks == 1 ? " block" : " blocks") + " of up to " +
                            size_text(report.block_bytes) + "; sealed " +
                            size_text(report.sealed_bytes));
  out +=
      row("cipher",
          "AES-256-GCM; a key of its own for each file by HKDF-SHA256; nonce: the block's index");
  if (!report.digest.empty()) {
    out += row("SHA-256", report.digest);
  }
  out += row("engine", report.engine + ", up to " + std::to_string(report.depth) + " in flight");
  for (const std::string& note : report.notes) {
    out += row("note", note);
  }
  if (report.hostile) {
    out += row("neighbour", "a process that wrote " + size_text(report.scribbled_bytes) +
                                " of random bytes over the I/O pool during the run");
  }
  out += row("outside", size_text(busy.reserved_bytes) + " of pools, " +
                            size_text(busy.mapping_bytes) + " of mappings in " +
                            count_text(busy.regions) + " regions; " +
                            count_text(report.pool_blocks) + " I/O blocks in all");
  out += row("trusted", size_text(busy.trusted_used_bytes) + " of books in use, " +
                            size_text(busy.trusted_bytes) + " taken; " +
                            size_text(report.staging_bytes) + " of staging buffers");
  char fragmentation[32];
  (void)std::snprintf(fragmentation, sizeof fragmentation, "%.0f %% of what is free",
                      100 * report.busy.fragmentation());
  out +=
      row("fragmentation", std::string(fragmentation) + " is not in the largest piece of its pool");
  return out + "</table>";
}

std::string tiles(const RunReport& report) {
  std::string out = "<div class=\"tiles\">";
  for (const PhaseFigures& phase : report.phases) {
    if (phase.bytes != 0) {
      out += tile(rate_text(phase.bytes_per_second()), phase.what);
    }
  }
  out += tile(count_text(report.host_calls_total()), "host calls");
  out += tile(size_text(report.busy.statistics.trusted_used_bytes), "of trusted books");
  out +=
      tile(count_text(report.attacks_total()), "host replies refused", report.attacks_total() != 0);
  out += tile(count_text(report.tampered.blocks.size()), "blocks tampered with",
              !report.tampered.clean());
  return out + "</div>";
}

}  // namespace

std::string html_report(const RunReport& report) {
  const bool clean = report.tampered.clean();
  const bool sound = report.ending_as_it_should();
  const bool sealing = report.command == "seal";
  const std::string verdict = !sound    ? "the books are broken"
                              : !clean  ? "tampering found, nothing written"
                              : sealing ? "sealed and verified"
                                        : "verified and unsealed";
  std::string page =
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>exclave " +
      report.command + ": " + verdict + "</title><style>" + kStyle + "</style></head><body><main>";
  page += "<header><h1>exclave " + report.command + "</h1><span class=\"verdict" +
          (clean && sound ? "" : " bad") + "\">" + verdict + "</span><p>" +
          html_escaped(report.input) + " → " + html_escaped(report.output) + "</p></header>";
  if (!clean) {
    page += "<p class=\"alert\">Not what was sealed: " + html_escaped(report.tampered.text(24)) +
            " of " + count_text(report.blocks) + ". No output was left under its name.</p>";
  }
  page += tiles(report);
  if (!clean && report.blocks > 1) {
    page += section("Blocks of the file", "In order; red ones came back other than they went out.",
                    tamper_strip(report));
  }
  page += section("Untrusted memory at a busy moment",
                  "Who holds what, from the allocator's books. Not one byte of them lies in the "
                  "memory that is drawn here.",
                  html_heap_map(report.busy, "busy") + html_heap_legend());
  page += section("Untrusted memory at the end",
                  "The same regions when the work is done: every block is free again and the free "
                  "runs have joined up; an empty slab may wait for the next small block.",
                  html_heap_map(report.at_end, "end"));
  page += section("Throughput", "Plaintext or ciphertext through the boundary, over time.",
                  ThroughputChart(report).svg());
  page += "<div class=\"pair\">" +
          section("Host calls", "By kind; each one costs thousands of cycles in an enclave.",
                  bars(report)) +
          section("Refused", "What contradicts the books in trusted memory is not believed.",
                  attacks(report)) +
          "</div>";
  page +=
      section("How it ended", "As an application would, and each answer checked against the books.",
              ending(report));
  page += section("The run", "", facts(report));
  return page + "<footer>exclave " EXCLAVE_VERSION "</footer></main></body></html>\n";
}

}  // namespace exclave::tools
