package import Files

/// A container cannot be described, found or managed.
package struct RuntimeError: DescribedError {
    package let message: String
    package let hint: String?

    package init(_ message: String, hint: String? = nil) { (self.message, self.hint) = (message, hint) }

    package init(_ error: FileError, _ words: String = "") {
        self.init(words.isEmpty ? error.message : "\(words): \(error.message)", hint: error.hint)
    }
}
