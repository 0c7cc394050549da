import Files
import Launch
import OCI

/// Prints a launch plan for people or programs.
struct PlanPrinter {
    let format: ListFormat

    /// `failed`: the number of the step, from 0, at which it ended.
    func print(_ plan: LaunchPlan, _ times: [StepTime?] = [], failed: Int? = nil, to fd: Int32) {
        switch format {
        case .table: writeText(text(plan, times, failed: failed), to: fd)
        case .json: writeText(json(plan, times, failed: failed).pretty() + "\n", to: fd)
        }
    }

    func text(_ plan: LaunchPlan, _ times: [StepTime?], failed: Int? = nil) -> String {
        var result = times.isEmpty ? "" : "  #    at ms   took ms  step\n"
        for (index, step) in plan.steps.enumerated() {
            if let failed, index > failed { break }
            let wording = step.wording
            let number = String(repeating: " ", count: max(0, 3 - "\(index + 1)".count)) + "\(index + 1)"
            var columns = ""
            if !times.isEmpty {
                let time = index < times.count ? times[index] : nil
                columns = "\(padded(time?.start))\(padded(time?.duration))"
            }
            let actor = step.actor == .child ? "" : "[imgbox] "
            result += "\(number)\(columns)  \(actor)\(wording.title)\n"
            result += "     why: \(wording.reason)\n     $ \(wording.shell)\n"
            if index == failed {
                result += "     FAILED: this step, number \(index + 1) of \(plan.steps.count)\n"
            }
        }
        for note in plan.notes { result += "note: \(note)\n" }
        return result
    }

    private func padded(_ nanoseconds: Int64?) -> String {
        guard let nanoseconds else { return String(repeating: " ", count: 9) + "-" }
        let micros = (nanoseconds + 500) / 1000
        let rest = String(micros % 1000)
        let text = "\(micros / 1000).\(String(repeating: "0", count: 3 - rest.count))\(rest)"
        return String(repeating: " ", count: max(1, 10 - text.count)) + text
    }

    func json(_ plan: LaunchPlan, _ times: [StepTime?], failed: Int? = nil) -> JSON {
        let steps = plan.steps.enumerated().map { index, step -> JSON in
            var members: [(key: String, value: JSON)] = [
                ("step", .integer(index + 1)), ("actor", .string(step.actor == .child ? "child" : "imgbox")),
                ("title", .string(step.wording.title)), ("reason", .string(step.wording.reason)),
                ("shell", .string(step.wording.shell)),
            ]
            if index < times.count, let time = times[index] {
                members.append(("start", .integer(time.start)))
                members.append(("nanoseconds", .integer(time.duration)))
            }
            if index == failed { members.append(("failed", .bool(true))) }
            return .object(members)
        }
        return [
            "namespaces": .array(plan.namespaces.map { .string($0.rawValue) }), "steps": .array(steps),
            "notes": .array(plan.notes.map { .string($0) }),
        ]
    }
}
