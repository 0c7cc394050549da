import Files

/// A document, name or digest that breaks a rule of its specification.
package struct OCIError: DescribedError, Equatable {
    package enum Code: Sendable, Equatable {
        case json, digest, reference, platform, mediaType, document
    }

    package let code: Code
    package let message: String
    package let hint: String?

    package init(_ code: Code, _ message: String, hint: String? = nil) {
        self.code = code
        self.message = message
        self.hint = hint
    }
}
