import Glibc

/// A moment of the monotonic clock up to which work may last.
package struct Deadline: Sendable {
    /// In nanoseconds of CLOCK_MONOTONIC.
    private let moment: Int64

    /// So many milliseconds from now.
    package init(milliseconds: Int) {
        let (span, _) = Int64(clamping: min(max(milliseconds, 0), 1 << 31)).multipliedReportingOverflow(
            by: 1_000_000)
        moment = Self.now + span
    }

    /// The time that is left for poll(2), in milliseconds, rounded up; 0 when it is over.
    var remaining: Int32 {
        let left = moment - Self.now
        return left <= 0 ? 0 : Int32(clamping: (left + 999_999) / 1_000_000)
    }

    private static var now: Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }
}
