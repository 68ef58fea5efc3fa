package hub

import "net/http"

func (s *Server) page(w http.ResponseWriter, r *http.Request) error       { return nil }
func (s *Server) signIn(w http.ResponseWriter, r *http.Request) error     { return nil }
func (s *Server) signOut(w http.ResponseWriter, r *http.Request) error    { return nil }
func (s *Server) styleSheet(w http.ResponseWriter, r *http.Request) error { return nil }
