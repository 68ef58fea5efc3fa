package api

// HoldPreview makes the hub count one more running policy preview of the owner, until the caller
// calls `release`.
func (s *Server) HoldPreview(owner string) (release func()) {
	s.previews.acquire(owner)
	return func() { s.previews.release(owner) }
}
