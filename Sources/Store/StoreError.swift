package import Files
package import Layers
package import OCI

/// The store, or an image that goes into it or comes out of it, cannot be used.
package struct StoreError: DescribedError {
    package enum Code: Sendable, Equatable {
        case notFound, ambiguous, inUse, malformed, unsupported, damaged, system, refused
    }

    package let code: Code
    package let message: String
    package let hint: String?

    package init(_ code: Code, _ message: String, hint: String? = nil) {
        self.code = code
        self.message = message
        self.hint = hint
    }

    package init(_ error: FileError, _ words: String = "") {
        self.init(.system, words.isEmpty ? error.message : "\(words): \(error.message)", hint: error.hint)
    }

    package init(_ error: OCIError, _ words: String = "") {
        self.init(.malformed, words.isEmpty ? error.message : "\(words): \(error.message)", hint: error.hint)
    }

    package init(_ error: LayerError, _ words: String = "") {
        self.init(
            error.code == .system ? .system : .malformed,
            words.isEmpty ? error.message : "\(words): \(error.message)", hint: error.hint)
    }
}

/// Runs file operations and words their errors for the store.
func filing<Result: ~Copyable>(
    _ words: String = "", _ body: () throws(FileError) -> Result
) throws(StoreError) -> Result {
    do throws(FileError) { return try body() } catch { throw StoreError(error, words) }
}

/// Reads documents and words their errors for the store.
func parsing<Result>(
    _ words: String, _ body: () throws(OCIError) -> Result
) throws(StoreError) -> Result {
    do throws(OCIError) { return try body() } catch { throw StoreError(error, words) }
}
