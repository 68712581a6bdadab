// Pieces of HTML and SVG as text.
#pragma once

#include <string>
#include <string_view>

namespace exclave::tools {

// Safe as text and inside double quotes.
std::string html_escaped(std::string_view text);
// A coordinate: two decimals at most, and a point whatever the locale.
std::string svg_number(double value);

}  // namespace exclave::tools
