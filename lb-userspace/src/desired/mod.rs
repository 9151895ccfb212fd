//! (folder being built)
