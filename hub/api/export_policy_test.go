package api

// HoldPreview counts one more preview of a policy as running, until release is called.
func (s *Server) HoldPreview(owner string) (release func()) {
	s.previews.acquire(owner)
	return func() { s.previews.release(owner) }
}
