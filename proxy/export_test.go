package proxy

import "time"

// LookAgainAfter shortens the time between two looks at the runtime's lists.
func (s *Server) LookAgainAfter(d time.Duration) { s.lookAgain = d }
