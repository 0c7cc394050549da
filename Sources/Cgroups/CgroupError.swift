import Files
package import SystemPackage

/// A group could not be made, or a limit not be set.
package struct CgroupError: DescribedError {
    package let message: String
    package let hint: String?
    package let errno: Errno?

    package init(_ message: String, hint: String? = nil, errno: Errno? = nil) {
        (self.message, self.hint, self.errno) = (message, hint, errno)
    }
}
