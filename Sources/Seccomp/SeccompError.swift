import Files

/// A profile that cannot be used.
package struct SeccompError: DescribedError {
    package let message: String
    package let hint: String?

    package init(_ message: String, hint: String? = nil) { (self.message, self.hint) = (message, hint) }
}
