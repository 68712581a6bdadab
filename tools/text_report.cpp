// The report on stdout.
#include <string>

#include "tools/run_report.hpp"

namespace exclave::tools {
namespace {

class Lines {
 public:
  void add(const std::string& name, const std::string& value) {
    text_ +=
        name + std::string(name.size() < kWidth ? kWidth - name.size() : 1, ' ') + value + '\n';
  }
  std::string take() { return std::move(text_); }

 private:
  static constexpr std::size_t kWidth = 17;
  std::string text_;
};

std::string verdict(const RunReport& report) {
  if (!report.tampered.clean()) {
    return "TAMPERED: " + report.tampered.text();
  }
  return report.command == "seal" ? "every block was read back and verified"
                                  : "every block was verified";
}

std::string list(const std::vector<std::pair<std::string, std::uint64_t>>& counts) {
  std::string text;
  for (const auto& [name, count] : counts) {
    text += text.empty() ? "" : " · ";
    text += name + ' ' + count_text(count);
  }
  return text;
}

}  // namespace

std::string text_report(const RunReport& report) {
  Lines lines;
  lines.add(report.command, report.input + " -> " + report.output);
  lines.add("content", size_text(report.plaintext_bytes) + " in " + count_text(report.blocks) +
                           (report.blocks == 1 ? " block" : " blocks") + " of up to " +
                           size_text(report.block_bytes) + ", AES-256-GCM");
  lines.add("verdict", verdict(report));
  if (!report.digest.empty()) {
    lines.add("SHA-256", report.digest);
  }
  lines.add("engine", report.engine + ", up to " + std::to_string(report.depth) + " in flight");
  for (const std::string& note : report.notes) {
    lines.add("", note);
  }
  if (report.hostile) {
    lines.add("neighbour",
              "wrote " + size_text(report.scribbled_bytes) + " of random bytes over the I/O pool");
  }
  for (const PhaseFigures& phase : report.phases) {
    const std::string time = seconds_text(phase.seconds);
    lines.add(phase.what,
              phase.bytes == 0 ? time : rate_text(phase.bytes_per_second()) + " (" + time + ")");
  }
  lines.add("host calls", count_text(report.host_calls_total()) + ": " + list(report.host_calls));
  const Statistics& busy = report.busy.statistics;
  lines.add("outside", count_text(busy.regions) + " regions of " +
                           size_text(busy.reserved_bytes + busy.mapping_bytes) + " · " +
                           count_text(report.pool_blocks) + " I/O blocks, " +
                           count_text(busy.live_blocks) + " live and " + count_text(busy.pins) +
                           " pins at the busiest");
  lines.add("trusted", size_text(busy.trusted_used_bytes) + " of books (" +
                           size_text(busy.trusted_bytes) + " taken) · " +
                           size_text(report.staging_bytes) + " of staging buffers");
  std::string attacks = count_text(report.attacks_total());
  for (std::size_t kind = 0; kind < AttackLog::kKinds; ++kind) {
    const auto attack = static_cast<Attack>(kind);
    if (report.attacks.count(attack) != 0) {
      attacks +=
          std::string(" · ") + attack_text(attack) + ' ' + count_text(report.attacks.count(attack));
    }
  }
  if (report.lies_refused() != 0) {
    attacks += " · host replies that fail verification " + count_text(report.lies_refused());
  }
  lines.add("attacks refused", attacks);
  if (!report.tampered.clean()) {
    lines.add("tampering found", count_text(report.tampered.blocks.size()) + " of " +
                                     count_text(report.blocks) + " blocks");
  }
  for (const EndingStep& step : report.ending) {
    if (!step.as_it_should) {
      lines.add("WRONG ANSWER", step.act + ": " + step.answer);
    }
  }
  if (!report.ending.empty()) {
    lines.add("the allocator", "validate_books(): " + report.ending.back().answer + " after " +
                                   std::to_string(report.ending.size()) + " closing acts");
  }
  return lines.take();
}

}  // namespace exclave::tools
