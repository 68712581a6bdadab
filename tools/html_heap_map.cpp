#include "tools/html_heap_map.hpp"

#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "tools/html_text.hpp"
#include "tools/run_report.hpp"

namespace exclave::tools {
namespace {

constexpr std::size_t kColumns = 64;
constexpr std::size_t kMostRows = 16;
constexpr double kCell = 14;

// How a region is laid out: cells of equal size, row by row.
struct Grid {
  explicit Grid(std::size_t region_bytes) {
    while (region_bytes > cell_bytes * kColumns * kMostRows) {
      cell_bytes *= 2;
    }
    const std::size_t cells = (region_bytes + cell_bytes - 1) / cell_bytes;
    columns = std::min(kColumns, cells);
    rows = (cells + columns - 1) / columns;
  }
  double width() const { return static_cast<double>(columns) * kCell; }
  double height() const { return static_cast<double>(rows) * kCell; }

  std::size_t cell_bytes = kPageBytes;
  std::size_t columns = 1;
  std::size_t rows = 1;
};

std::string hex(std::uintptr_t address) {
  char text[24];
  (void)std::snprintf(text, sizeof text, "0x%" PRIxPTR, address);
  return text;
}

// Rectangles for the bytes [begin, end) of a region, one for each row that they touch.
std::string rectangles(const Grid& grid, std::size_t begin, std::size_t end, const std::string& css,
                       const std::string& title) {
  const std::size_t row_bytes = grid.cell_bytes * grid.columns;
  const double scale = kCell / static_cast<double>(grid.cell_bytes);
  std::string out = "<g class=\"" + css + "\"><title>" + html_escaped(title) + "</title>";
  for (std::size_t at = begin; at < end;) {
    const std::size_t row = at / row_bytes;
    const std::size_t stop = std::min(end, (row + 1) * row_bytes);
    const double x = static_cast<double>(at - row * row_bytes) * scale;
    const double width = std::max(static_cast<double>(stop - at) * scale, 1.5);
    out += "<rect x=\"" + svg_number(x) + "\" y=\"" + svg_number(static_cast<double>(row) * kCell) +
           "\" width=\"" + svg_number(width) + "\" height=\"" + svg_number(kCell) + "\"/>";
    at = stop;
  }
  return out + "</g>";
}

std::string run_title(const RunInfo& run) {
  std::string text = size_text(run.extent.size) + " at " + hex(run.extent.base);
  switch (run.kind) {
    case RunInfo::Kind::kFree:
      text = "free: " + text;
      break;
    case RunInfo::Kind::kBlock:
      text = "block: " + text;
      break;
    case RunInfo::Kind::kSlab:
      text = "slab: " + text + ", " + std::to_string(run.live_slots) + " of " +
             std::to_string(run.slots) + " slots of " + std::to_string(run.slot_bytes) +
             " B live, " + std::to_string(run.cached_slots) + " cached";
      break;
  }
  return text + (run.pinned ? "; pinned: I/O in flight" : "");
}

std::string runs_of(const RegionPicture& region, const Grid& grid) {
  std::string out;
  bool odd = false;  // neighbours in two shades, so that their border is seen
  for (const RunInfo& run : region.runs) {
    const std::size_t begin = run.extent.base - region.info.extent.base;
    const std::size_t end = begin + run.extent.size;
    const std::string shade = odd ? " odd" : "";
    switch (run.kind) {
      case RunInfo::Kind::kFree:
        out += rectangles(grid, begin, end, "free", run_title(run));
        continue;
      case RunInfo::Kind::kBlock:
        out += rectangles(grid, begin, end, "block" + shade, run_title(run));
        break;
      case RunInfo::Kind::kSlab: {
        // As much of it in full colour as its slots are live.
        const std::size_t live = run.slots == 0 ? 0 : run.extent.size * run.live_slots / run.slots;
        out += rectangles(grid, begin, end, "idle" + shade, run_title(run));
        if (live != 0) {
          out += rectangles(grid, begin, begin + live, "slab", run_title(run));
        }
        break;
      }
    }
    odd = !odd;
    if (run.pinned) {
      out += rectangles(grid, begin, end, "pinned", run_title(run));
    }
  }
  return out;
}

const char* protection_text(Protection protection) {
  switch (protection) {
    case Protection::kNone:
      return "no access";
    case Protection::kRead:
      return "read";
    case Protection::kWrite:
      return "write";
    case Protection::kReadWrite:
      return "read, write";
  }
  return "";
}

std::string role_text(const RegionInfo& info) {
  switch (info.role) {
    case Role::kPool:
      return info.grown ? "grown from the host" : "attached pool";
    case Role::kMapping:
      return "mapping of a device";
    case Role::kForbidden:
      return "forbidden window";
  }
  return "";
}

std::string region_figure(const RegionPicture& region, const std::string& id) {
  const Grid grid(region.info.extent.size);
  const std::string pattern = "hatch-" + id;
  std::string cells;
  if (region.info.role == Role::kPool) {
    cells = runs_of(region, grid);
  } else {
    cells = rectangles(grid, 0, region.info.extent.size, "mapping", region.name);
  }
  const std::string width = svg_number(grid.width());
  const std::string height = svg_number(grid.height());
  std::string out = "<figure class=\"region\"><figcaption><b>" + html_escaped(region.name) +
                    "</b><span>" + role_text(region.info) + "</span><span>" +
                    size_text(region.info.extent.size) + "</span><span>" +
                    protection_text(region.info.protection) + "</span>";
  if (region.info.role == Role::kPool) {
    const std::size_t pinned = region.pinned_bytes();
    out += "<span>" + size_text(region.free_bytes()) + " free</span>";
    out += pinned == 0 ? "" : "<span>" + size_text(pinned) + " in flight</span>";
  }
  out += "</figcaption>";
  // Full rows fill the page; what is shorter keeps its cells at their size.
  const std::string limit = grid.rows > 1 ? "" : " style=\"max-width:" + width + "px\"";
  out += "<svg viewBox=\"0 0 " + width + " " + height + "\"" + limit +
         " role=\"img\" aria-label=\"" + html_escaped(region.name) + "\">";
  out +=
      "<defs><pattern id=\"" + pattern +
      "\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">"
      "<rect width=\"2.2\" height=\"6\" class=\"hatch\"/></pattern>"
      "<pattern id=\"cells-" +
      id +
      "\" width=\"14\" height=\"14\" patternUnits=\"userSpaceOnUse\">"
      "<path d=\"M14 0V14H0\" class=\"cellline\"/></pattern></defs>";
  out += "<g style=\"--hatch:url(#" + pattern + ")\">" + cells + "</g>";
  out += "<rect width=\"" + width + "\" height=\"" + height + "\" fill=\"url(#cells-" + id +
         ")\" pointer-events=\"none\"/></svg>";
  out += "<small>at <code>" + hex(region.info.extent.base) +
         "</code>, one cell: " + size_text(grid.cell_bytes) + "</small></figure>";
  return out;
}

}  // namespace

std::string html_heap_map(const HeapMap& map, const std::string& id) {
  // Pools in full width, then what is only tracked, side by side.
  std::string pools;
  std::string others;
  for (std::size_t i = 0; i < map.regions.size(); ++i) {
    const RegionPicture& region = map.regions[i];
    std::string& out = region.info.role == Role::kPool ? pools : others;
    out += region_figure(region, id + "-" + std::to_string(i));
  }
  return "<div class=\"heap\">" + pools + "<div class=\"side\">" + others + "</div></div>";
}

std::string html_heap_legend() {
  return "<p class=\"legend\"><span><i class=\"block\"></i>block</span>"
         "<span><i class=\"block hatched\"></i>block, pinned: I/O in flight</span>"
         "<span><i class=\"slab\"></i>small blocks</span>"
         "<span><i class=\"idle\"></i>slab, slots not in use</span>"
         "<span><i class=\"free\"></i>free</span>"
         "<span><i class=\"mapping\"></i>mapping of a device</span></p>";
}

}  // namespace exclave::tools
