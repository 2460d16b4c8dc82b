package id

// syncDir does nothing: a folder cannot be flushed here, and the file system orders the making of a name before the file's
// own flush.
func syncDir(string) error { return nil }
