import Files
import Glibc
import Layers
import OCI
import Store

/// One line a layer on a terminal, rewritten in place, and a total. In a pipe nothing is shown.
final class ProgressDisplay: Sendable {
    private struct Line {
        let digest: Digest
        var size: Int64 = 0
        var done: Int64 = 0
        var state = "waiting"
        var isEnded = false
    }

    private struct State {
        var lines: [Line] = []
        var drawn = 0
        var lastDraw: Int64 = 0
    }

    private let state = Monitor(State())
    private let started = now()
    private let fd: Int32
    private let columns: Int

    /// nil where standard error is no terminal, or nothing is to be shown.
    static func forTerminal(quiet: Bool) -> ProgressDisplay? {
        guard !quiet, isatty(2) == 1, environment("TERM") != "dumb" else { return nil }
        return ProgressDisplay(fd: 2)
    }

    init(fd: Int32, columns: Int? = nil) {
        self.fd = fd
        self.columns = max(20, columns ?? terminalColumns(fd))
    }

    var handler: ProgressHandler {
        { digest, event in self.note(digest, event) }
    }

    private func note(_ digest: Digest, _ event: LayerEvent) {
        state.with { state in
            let index = state.lines.firstIndex { $0.digest == digest } ?? state.lines.count
            if index == state.lines.count { state.lines.append(Line(digest: digest)) }
            ProgressDisplay.apply(event, to: &state.lines[index])
            let time = now()
            // Twenty pictures a second are enough for the eye.
            guard time - state.lastDraw > 50_000_000 else { return }
            state.lastDraw = time
            draw(&state)
        }
    }

    private static func apply(_ event: LayerEvent, to line: inout Line) {
        switch event {
        case .waiting(let size): line.size = size
        case .advanced(let count): line.done += count
        case .verifying: line.state = "verifying"
        case .unpacking:
            line.state = "unpacking"
            line.done = 0
        case .done:
            line.state = "done"
            line.isEnded = true
        case .alreadyThere:
            line.state = "already there"
            line.isEnded = true
        }
    }

    private func draw(_ state: inout State) {
        var text = state.drawn > 0 ? "\u{1b}[\(state.drawn)A" : ""
        for line in picture(state.lines, seconds: Double(now() - started) / 1e9) {
            text += "\r\u{1b}[K" + line.prefix(columns - 1) + "\n"
        }
        state.drawn = state.lines.count + 1
        writeText(text, to: fd)
    }

    private func picture(_ lines: [Line], seconds: Double) -> [String] {
        var total: Int64 = 0
        var sum: Int64 = 0
        var result: [String] = []
        for line in lines {
            total += line.size
            sum += line.isEnded ? line.size : min(line.done, line.size)
            let amount =
                line.isEnded
                ? readable(line.size) : "\(readable(min(line.done, line.size))) of \(readable(line.size))"
            result.append("\(line.digest.short)  \(pad(line.state, 14))\(amount)")
        }
        let rate = seconds > 0.2 ? "  \(readable(Int64(Double(sum) / seconds)))/s" : ""
        return result + ["total         \(readable(sum)) of \(readable(total))\(rate)"]
    }

    /// The last picture stays on the screen.
    func finish() {
        state.with { state in
            if !state.lines.isEmpty { draw(&state) }
        }
    }
}

/// A text with spaces up to a width.
func pad(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.count))
}

/// The monotonic clock in nanoseconds.
func now() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
}
