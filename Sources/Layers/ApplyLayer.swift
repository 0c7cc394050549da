/// Reads a layer's blob to its end, checks its digests, and applies it to a tree; without a writer it is only checked.
/// `fd` is borrowed.
package func applyLayer(
    _ fd: Int32, _ source: LayerSource, to writer: TreeWriter?, progress: (@Sendable (Int64) -> Void)? = nil
) throws(LayerError) -> LayerStream.Summary {
    try applyLayer(LayerStream(fd, source, progress: progress), to: writer)
}

/// The same for a stream that was started before.
package func applyLayer(_ stream: LayerStream, to writer: TreeWriter?) throws(LayerError)
    -> LayerStream.Summary
{
    do throws(LayerError) {
        if let writer { try writer.apply(TarReader(stream)) }
        return try stream.finish()
    } catch {
        stream.cancel()
        throw error
    }
}
