import Files
package import SystemPackage

/// A container could not be started.
package struct LaunchError: DescribedError {
    /// The step that failed, when it was one of the plan.
    package let step: LaunchPlan.Step?
    package let message: String
    package let hint: String?
    package let errno: Errno?

    /// Its number in the plan, from 0, and the times of the steps before, when the plan was being explained.
    package private(set) var index: Int?
    package private(set) var times: [StepTime?] = []

    func at(_ index: Int, _ times: [StepTime?]) -> LaunchError {
        var copy = self
        (copy.index, copy.times) = (index, times)
        return copy
    }

    package init(_ message: String, hint: String? = nil, errno: Errno? = nil, step: LaunchPlan.Step? = nil) {
        (self.message, self.hint, self.errno, self.step) = (message, hint, errno, step)
    }

    /// The exit code that container engines use: 127 where the command is not there, 126 where it cannot be run, and
    /// 125 for everything else.
    package var exitCode: Int32 {
        guard case .exec? = step else { return 125 }
        switch errno {
        case .noSuchFileOrDirectory?, .notDirectory?: return 127
        default: return 126
        }
    }
}
