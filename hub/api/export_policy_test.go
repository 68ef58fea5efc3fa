package api

// HoldPreview makes the hub count one more policy preview of the owner as running, until release is
// called.
func (s *Server) HoldPreview(owner string) (release func()) {
	s.previews.acquire(owner)
	return func() { s.previews.release(owner) }
}
