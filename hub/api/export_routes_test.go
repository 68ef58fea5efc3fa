package api

// Route is a row of the route table, for the tests in package api_test.
type Route struct {
	Method, Path string
	Slash        bool   // true: the path with a slash at its end is the same route
	Access       string // the name of the route's access in access.go
	Rate         string
	Body         int64
}

// Routes returns the route table.
func Routes() (list []Route) {
	for _, rt := range routes {
		r := Route{Method: rt.method, Path: rt.path, Access: accessNames[rt.who], Rate: rt.rate, Body: rt.body}
		if path := rt.path; path[len(path)-1] == '?' {
			r.Path, r.Slash = path[:len(path)-2], true
		}
		list = append(list, r)
	}
	return list
}

var accessNames = map[access]string{
	anyone: "anyone", visitor: "visitor", fullVisitor: "fullVisitor", registrant: "registrant", urlHolder: "urlHolder",
	scopedAccount: "scopedAccount", anySignIn: "anySignIn", anySession: "anySession", fullSession: "fullSession", operator: "operator",
	accountOrDevice: "accountOrDevice", activeDevice: "activeDevice", tlsDevice: "tlsDevice", unmeasuredDevice: "unmeasuredDevice", pendingDevice: "pendingDevice",
}
