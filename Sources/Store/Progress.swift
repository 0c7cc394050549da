package import OCI

/// What happens to a layer while an image is taken in, for whoever shows it.
package enum LayerEvent: Sendable, Equatable {
    /// The layer is known; its compressed size in bytes.
    case waiting(Int64)
    /// So many compressed bytes more were read.
    case advanced(Int64)
    case verifying
    case unpacking
    case done
    case alreadyThere
}

/// Called from several threads at once.
package typealias ProgressHandler = @Sendable (_ layer: Digest, LayerEvent) -> Void
