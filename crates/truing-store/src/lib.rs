//! Run directories, manifests, atomic files, digests, caches.
