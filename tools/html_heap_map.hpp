// The heap map of the page: every region as a grid of cells, coloured by who holds them.
#pragma once

#include <string>

#include "tools/heap_map.hpp"

namespace exclave::tools {

// SVG and the words beside it, for one moment. id: tells the maps of one page apart.
std::string html_heap_map(const HeapMap& map, const std::string& id);
// What the colours mean.
std::string html_heap_legend();

}  // namespace exclave::tools
