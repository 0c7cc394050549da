/// Which system calls are allowed: rules over a default, for one architecture and set of capabilities.
package struct SeccompProfile: Sendable, Equatable {
    package enum Action: Sendable, Equatable {
        case allow, log, trap, killThread, killProcess
        case errno(UInt16)
        case trace(UInt16)
    }

    package enum Comparison: Sendable, Equatable {
        case notEqual, less, lessOrEqual, equal, greaterOrEqual, greater, masked
    }

    /// A condition on an argument, 0 to 5. For `masked`: argument & value == second.
    package struct Condition: Sendable, Equatable {
        package var index: UInt32
        package var comparison: Comparison
        package var value: UInt64
        package var second: UInt64
        package init(_ index: UInt32, _ comparison: Comparison, _ value: UInt64, _ second: UInt64 = 0) {
            (self.index, self.comparison, self.value, self.second) = (index, comparison, value, second)
        }
    }

    package struct Rule: Sendable, Equatable {
        package var names: [String]
        package var action: Action
        /// All of them must hold.
        package var conditions: [Condition]
        package init(_ names: [String], _ action: Action, _ conditions: [Condition] = []) {
            (self.names, self.action, self.conditions) = (names, action, conditions)
        }
    }

    package var defaultAction: Action
    package var rules: [Rule]
    /// Programs for the machine's other word size are let in under the same rules.
    package var allowsOtherWordSize = true

    package init(defaultAction: Action, rules: [Rule]) {
        (self.defaultAction, self.rules) = (defaultAction, rules)
    }
}
