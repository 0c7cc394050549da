import CKernel
import Files
import Glibc
import SystemPackage

/// Stands between the user and a running container: passes signals on, moves bytes between the two terminals, and waits
/// for the end. One thread, one poll(2).
package final class Attachment {
    private let signals: OwnedFD
    private var before: sigset_t
    private var saved: termios?
    /// Keys that the container's terminal has no room for yet.
    private var keys: [UInt8] = []
    private var readsKeys: Bool

    /// From here on signals wait to be passed on; none of them can end this program half-way.
    package init(readsKeys: Bool) throws(RuntimeError) {
        var mask = sigset_t()
        let fd = ck_catch_signals(&mask)
        guard fd >= 0 else { throw RuntimeError("signalfd: \(Errno(rawValue: Glibc.errno).description)") }
        signals = OwnedFD(fd)
        before = mask
        self.readsKeys = readsKeys
    }

    deinit {
        restore()
        sigprocmask(SIG_SETMASK, &before, nil)
    }

    /// Lets every key through to the container, as it is.
    package func makeRaw() {
        var settings = termios()
        guard tcgetattr(0, &settings) == 0 else { return }
        saved = settings
        cfmakeraw(&settings)
        tcsetattr(0, TCSADRAIN, &settings)
    }

    /// Gives the user's terminal its settings back.
    package func restore() {
        guard var settings = saved else { return }
        tcsetattr(0, TCSADRAIN, &settings)
        saved = nil
    }

    /// Waits for the process, and gives its exit code: its own, or 128 and the number of the signal that ended it.
    package func run(pid: Int32, pidfd: Int32, terminal: Int32) -> Int32 {
        if terminal >= 0 {
            _ = ck_fcntl_int(terminal, F_SETFL, O_RDWR | O_NONBLOCK)
        }
        var isTerminalOpen = terminal >= 0
        while true {
            var polled = [
                pollfd(fd: pidfd, events: Int16(POLLIN), revents: 0),
                pollfd(fd: signals.raw, events: Int16(POLLIN), revents: 0),
                pollfd(
                    fd: isTerminalOpen ? terminal : -1,
                    events: Int16(POLLIN) | (keys.isEmpty ? 0 : Int16(POLLOUT)), revents: 0),
                pollfd(
                    fd: isTerminalOpen && readsKeys && keys.isEmpty ? 0 : -1, events: Int16(POLLIN),
                    revents: 0),
            ]
            guard poll(&polled, 4, -1) >= 0 || Glibc.errno == EINTR else { break }
            if polled[1].revents != 0 { passSignals(to: pidfd, terminal: terminal) }
            if polled[3].revents != 0 { readKeys() }
            if polled[2].revents & Int16(POLLOUT) != 0 || !keys.isEmpty && isTerminalOpen {
                sendKeys(to: terminal)
            }
            if polled[2].revents & Int16(POLLIN | POLLHUP | POLLERR) != 0 { isTerminalOpen = show(terminal) }
            if polled[0].revents != 0 { break }
        }
        // What the command wrote last may still be on its way.
        while isTerminalOpen, show(terminal, untilEmpty: true) {}
        restore()
        return Attachment.exitCode(ck_wait_status(pid))
    }

    static func exitCode(_ status: Int32) -> Int32 {
        // The layout of wait(2): the low seven bits are the signal, the second byte is the exit code.
        let signal = status & 0x7f
        return signal == 0 ? (status >> 8) & 0xff : 128 + signal
    }

    private func passSignals(to pidfd: Int32, terminal: Int32) {
        while true {
            let number = ck_read_signal(signals.raw)
            switch number {
            case 0: return
            case SIGCHLD, SIGPIPE, SIGURG: continue
            case SIGWINCH:
                if terminal >= 0 { ck_copy_window_size(0, terminal) }
            default: _ = ck_signal_process(pidfd, number)
            }
        }
    }

    private func readKeys() {
        var buffer = [UInt8](repeating: 0, count: 4096)
        let count = Glibc.read(0, &buffer, buffer.count)
        if count > 0 {
            keys = Array(buffer[..<count])
        } else if count == 0 || (Glibc.errno != EINTR && Glibc.errno != EAGAIN) {
            readsKeys = false
        }
    }

    private func sendKeys(to terminal: Int32) {
        let count = Glibc.write(terminal, keys, keys.count)
        if count > 0 {
            keys.removeFirst(count)
        } else if Glibc.errno != EAGAIN && Glibc.errno != EINTR {
            keys = []
        }
    }

    /// Moves what is there to standard output. False when the terminal has no other end any more, or, with
    /// `untilEmpty`, nothing more to say.
    private func show(_ terminal: Int32, untilEmpty: Bool = false) -> Bool {
        var buffer = [UInt8](repeating: 0, count: 16384)
        let count = Glibc.read(terminal, &buffer, buffer.count)
        if count > 0 {
            display(Array(buffer[..<count]))
            return true
        }
        if count < 0, Glibc.errno == EINTR { return true }
        return count < 0 && Glibc.errno == EAGAIN && !untilEmpty
    }

    /// Somebody who shares our standard output may have made it non-blocking: nothing is lost for that. Nobody may be left
    /// to read it; the container goes on all the same.
    private func display(_ bytes: [UInt8]) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(1, $0.baseAddress, $0.count) }
            if count > 0 {
                rest = rest.dropFirst(count)
            } else if Glibc.errno == EAGAIN {
                var output = pollfd(fd: 1, events: Int16(POLLOUT), revents: 0)
                poll(&output, 1, -1)
            } else if Glibc.errno != EINTR {
                return
            }
        }
    }
}
