import Files
import Launch
import OCI

/// Prints a launch plan for people or programs.
struct PlanPrinter {
    let format: ListFormat

    func print(_ plan: LaunchPlan, _ nanoseconds: [Int64?] = [], to fd: Int32) {
        switch format {
        case .table: writeText(text(plan, nanoseconds), to: fd)
        case .json: writeText(json(plan, nanoseconds).pretty() + "\n", to: fd)
        }
    }

    func text(_ plan: LaunchPlan, _ nanoseconds: [Int64?]) -> String {
        var result = ""
        for (index, step) in plan.steps.enumerated() {
            let wording = step.wording
            let number = "\(index + 1)"
            let time = index < nanoseconds.count ? nanoseconds[index].map(milliseconds) ?? "" : ""
            let margin = String(repeating: " ", count: max(0, 2 - number.count))
            result += "\(margin)\(number)  \(time.isEmpty ? "" : pad(time, 11))\(wording.title)\n"
            result += "    why: \(wording.reason)\n    $ \(wording.shell)\n"
        }
        for note in plan.notes { result += "note: \(note)\n" }
        return result
    }

    private func milliseconds(_ value: Int64) -> String {
        let micros = (value + 500) / 1000
        let rest = String(micros % 1000)
        return "\(micros / 1000).\(String(repeating: "0", count: 3 - rest.count))\(rest) ms"
    }

    func json(_ plan: LaunchPlan, _ nanoseconds: [Int64?]) -> JSON {
        let steps = plan.steps.enumerated().map { index, step -> JSON in
            var members: [(key: String, value: JSON)] = [
                ("step", .integer(index + 1)), ("title", .string(step.wording.title)),
                ("reason", .string(step.wording.reason)), ("shell", .string(step.wording.shell)),
            ]
            if index < nanoseconds.count, let time = nanoseconds[index] {
                members.append(("nanoseconds", .integer(time)))
            }
            return .object(members)
        }
        return [
            "namespaces": .array(plan.namespaces.map { .string($0.rawValue) }), "steps": .array(steps),
            "notes": .array(plan.notes.map { .string($0) }),
        ]
    }
}
