import Files
import OCI

/// How a listing is printed.
enum ListFormat: String, CaseIterable {
    case table, json
}

/// Columns for people. The last column is not padded.
func table(_ header: [String], _ rows: [[String]]) -> String {
    var widths = header.map(\.count)
    for row in rows {
        for (index, cell) in row.enumerated() where index < widths.count {
            widths[index] = max(widths[index], cell.count)
        }
    }
    return ([header] + rows).map { row in
        row.enumerated().map { index, cell in
            index == row.count - 1 ? cell : pad(cell, widths[index] + 3)
        }.joined() + "\n"
    }.joined()
}

/// Prints a list as a table or as a JSON array.
func printList(_ format: ListFormat, header: [String], rows: [[String]], json: [JSON]) {
    switch format {
    case .table: writeText(table(header, rows), to: 1)
    case .json: writeText(JSON.array(json).pretty() + "\n", to: 1)
    }
}

/// How long ago a time of RFC 3339 is, as docker words it; "N/A" where it is not known.
func age(_ text: String?, now: Int64) -> String {
    guard let text, let seconds = parseRFC3339(text) else { return "N/A" }
    let age = now - seconds
    let units: [(Int64, String)] = [
        (31_536_000, "year"), (2_592_000, "month"), (604_800, "week"), (86_400, "day"), (3600, "hour"),
        (60, "minute"),
    ]
    if age < 0 { return "in the future" }
    for (length, name) in units where age >= (length == 2_592_000 ? 2 * length : length) {
        let count = age / length
        return "\(count) \(name)\(count == 1 ? "" : "s") ago"
    }
    return "\(age) second\(age == 1 ? "" : "s") ago"
}
