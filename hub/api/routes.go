package api

import (
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"gangway/hub/policy"
	"gangway/hub/store"
	"gangway/tcg"
	"gangway/wire"
	"gangway/wire/trail"
)

// route is one row of the route table: a method, a path, the access that callers need, the rate
// limit, the largest body, and the handler. The row says everything about the route, except whether
// the hub serves it when disk space is scarce: that is in the map `essential`.
type route struct {
	method string
	// path is a pattern of http.ServeMux, with two differences: it always matches the whole path,
	// and a "/?" at its end means an optional slash. Devices do not follow redirects, so the hub
	// answers requests for a collection with and without the slash.
	path   string
	who    access
	rate   string // name of a limit in Rates; or unlimited, or inHandler
	body   int64  // the largest body, in bytes; or noBody, or announcedBody
	handle func(s *Server, w http.ResponseWriter, r *http.Request) error
}

// Values of route.rate that are not names of limits.
const (
	unlimited = ""
	// inHandler means that the handler applies a limit, which depends on the request's content.
	inHandler = "in the handler"
)

// Values of route.body.
const (
	noBody   = 0
	jsonBody = 64 << 10
	formBody = 64 << 10
	// stateBody bounds a body that contains a state. It is larger than the largest state, so that a
	// state that is slightly too large gets the error code for states and not the one for bodies.
	stateBody = trail.MaxState + trail.MaxMeta + 64<<10
	// metaFormBody and stateFormBody are for forms with metadata or a state. The form encoding can
	// make a text three times as long.
	metaFormBody  = 3*store.MaxMeta + 64<<10
	stateFormBody = 3*trail.MaxState + 64<<10
	// announcedBody is for uploads, whose limit is the size that the client announced.
	announcedBody = -1
)

var routes = []route{
	{"GET", "/healthz", anyone, unlimited, noBody, (*Server).healthz},
	{"GET", "/readyz", anyone, unlimited, noBody, (*Server).readyz},
	{"GET", "/openapi.json", anyone, unlimited, noBody, (*Server).openAPI},
	{"GET", "/hub-ca.pem", anyone, unlimited, noBody, (*Server).hubCA},

	// Onboarding.
	{"POST", "/onboard", anyone, onboardRate, tcg.MaxCSR, (*Server).enrol},
	{"POST", "/onboard/activate", pendingDevice, onboardRate, jsonBody, (*Server).activate},
	{"GET", "/aca/certs/{file}", anyone, unlimited, noBody, (*Server).aikCertificate},
	{"GET", "/claims/{code}", anyone, onboardRate, noBody, (*Server).showClaim},

	// Pantacor's two-step enrolment.
	{"POST", "/enroll/request", anyone, onboardRate, wire.MaxStepBody, (*Server).enrollKeys},
	{"POST", "/register", anyone, onboardRate, wire.MaxStepBody, (*Server).registerTPM},
	{"POST", "/devices/register", anyone, onboardRate, wire.MaxStepBody, (*Server).registerTPM},
	{"POST", "/auth/signature/verify", anyone, signatureRate, jsonBody, (*Server).verifySignature},

	// A device, about itself.
	{"GET", "/device", unmeasuredDevice, unlimited, noBody, (*Server).showSelf},
	{"GET", "/device/boot", unmeasuredDevice, unlimited, noBody, (*Server).bootChallenge},
	{"POST", "/device/boot", unmeasuredDevice, bootRate, wire.MaxBootReport, (*Server).measure},
	{"PATCH", "/device/meta", activeDevice, unlimited, jsonBody, (*Server).reportMeta},
	{"POST", "/device/secret", tlsDevice, unlimited, noBody, (*Server).newSecret},
	{"PUT", "/device/secret", tlsDevice, unlimited, jsonBody, (*Server).keepSecret},
	{"POST", "/auth/x509/login", tlsDevice, unlimited, noBody, (*Server).signInByCertificate},

	// Sign-in, and the caller's own account.
	{"POST", "/auth/login", anyone, inHandler, jsonBody, (*Server).login}, // signInRate for people, deviceSignInRate for devices
	{"GET", "/auth/login", anySignIn, unlimited, noBody, (*Server).renew},
	{"GET", "/auth/jwks.json", anyone, unlimited, noBody, (*Server).jwks},
	{"POST", "/auth/logout", anySession, unlimited, noBody, (*Server).logout},
	{"GET", "/auth/auth_status", anySignIn, unlimited, noBody, (*Server).authStatus},
	{"POST", "/auth/password", fullSession, signInRate, jsonBody, (*Server).changePassword},
	{"POST", "/auth/recover", anyone, signInRate, noBody, (*Server).recoverPassword},
	{"GET", "/auth/sessions", fullSession, unlimited, noBody, (*Server).listSessions},
	{"DELETE", "/auth/sessions", fullSession, unlimited, noBody, (*Server).endSessions},
	{"DELETE", "/auth/sessions/{id}", fullSession, unlimited, noBody, (*Server).endSession},
	{"POST", "/auth/accounts/{id}/disable", fullSession, signInRate, jsonBody, (*Server).disableOwnAccount},
	{"POST", "/auth/accounts/{id}/delete", fullSession, signInRate, jsonBody, (*Server).deleteOwnAccount},
	{"POST", "/auth/accounts/?", anyone, signInRate, jsonBody, (*Server).createAccount},
	{"GET", "/auth/accounts/?", scopedAccount, unlimited, noBody, (*Server).listAccounts},
	{"GET", "/auth/", scopedAccount, unlimited, noBody, (*Server).ownAccount},
	{"GET", "/profiles/?", scopedAccount, unlimited, noBody, (*Server).listProfiles},

	// API tokens, and join tokens.
	{"POST", "/tokens/?", fullSession, unlimited, jsonBody, (*Server).createAPIToken},
	{"GET", "/tokens/?", fullSession, unlimited, noBody, (*Server).listAPITokens},
	{"GET", "/tokens/{id}", fullSession, unlimited, noBody, (*Server).showAPIToken},
	{"DELETE", "/tokens/{id}", fullSession, unlimited, noBody, (*Server).revokeAPIToken},
	{"POST", "/devices/tokens/?", scopedAccount, unlimited, jsonBody, (*Server).createJoinToken},
	{"GET", "/devices/tokens/?", scopedAccount, unlimited, noBody, (*Server).listJoinTokens},
	{"DELETE", "/devices/tokens/{id}", scopedAccount, unlimited, noBody, (*Server).endJoinToken},

	// Waiting devices, the owner's policy and the owner's EK list.
	{"GET", "/devices/waiting/?", scopedAccount, unlimited, noBody, (*Server).listWaiting},
	{"POST", "/devices/{id}/approve", scopedAccount, unlimited, jsonBody, (*Server).approve},
	{"POST", "/devices/{id}/deny", scopedAccount, unlimited, jsonBody, (*Server).deny},
	{"GET", "/policy", scopedAccount, unlimited, noBody, (*Server).showPolicy},
	{"PUT", "/policy", scopedAccount, unlimited, policy.MaxSize, (*Server).putPolicy},
	{"DELETE", "/policy", scopedAccount, unlimited, noBody, (*Server).deletePolicy},
	{"GET", "/policy/ek-list", scopedAccount, unlimited, noBody, (*Server).showEKList},
	{"PUT", "/policy/ek-list", scopedAccount, unlimited, policy.MaxListSize, (*Server).putEKList},
	{"DELETE", "/policy/ek-list", scopedAccount, unlimited, noBody, (*Server).deleteEKList},

	// Devices.
	{"POST", "/devices/?", registrant, registerRate, jsonBody, (*Server).registerDevice},
	{"GET", "/devices/?", accountOrDevice, unlimited, noBody, (*Server).listDevices},
	{"GET", "/devices/np/{owner}/{id}", accountOrDevice, unlimited, noBody, (*Server).showByNicks},
	{"GET", "/devices/{id}", accountOrDevice, unlimited, noBody, (*Server).showDevice},
	{"PUT", "/devices/{id}", scopedAccount, inHandler, jsonBody, (*Server).putDevice}, // claimRate, if the request claims the device
	{"PATCH", "/devices/{id}", scopedAccount, unlimited, jsonBody, (*Server).renameDevice},
	{"DELETE", "/devices/{id}", scopedAccount, unlimited, noBody, (*Server).deleteDevice},
	{"PUT", "/devices/{id}/public", scopedAccount, unlimited, noBody, (*Server).publish},
	{"DELETE", "/devices/{id}/public", scopedAccount, unlimited, noBody, (*Server).unpublish},
	{"GET", "/devices/{id}/user-meta", accountOrDevice, unlimited, noBody, (*Server).showUserMeta},
	{"PUT", "/devices/{id}/user-meta", scopedAccount, unlimited, store.MaxMeta, (*Server).putUserMeta},
	{"PATCH", "/devices/{id}/user-meta", scopedAccount, unlimited, store.MaxMeta, (*Server).patchUserMeta},
	{"GET", "/devices/{id}/device-meta", accountOrDevice, unlimited, noBody, (*Server).showDeviceMeta},
	{"PUT", "/devices/{id}/device-meta", activeDevice, unlimited, store.MaxMeta, (*Server).putDeviceMeta},
	{"PATCH", "/devices/{id}/device-meta", activeDevice, unlimited, store.MaxMeta, (*Server).patchDeviceMeta},
	{"GET", "/devices/{id}/evidence", scopedAccount, unlimited, noBody, (*Server).showEvidence},
	{"GET", "/devices/{id}/cloned", scopedAccount, unlimited, noBody, (*Server).showCloned},
	{"PUT", "/devices/{id}/cloned", scopedAccount, unlimited, jsonBody, (*Server).decideCloned},
	{"GET", "/devices/{id}/boot", scopedAccount, unlimited, noBody, (*Server).showBoot},
	{"POST", "/devices/{id}/boot/reference", scopedAccount, unlimited, jsonBody, (*Server).setReference},
	{"POST", "/devices/{id}/boot/request", scopedAccount, unlimited, noBody, (*Server).requestBoot},

	// An owner's manifest keys, reference manifests, cohorts of devices, and decisions about the
	// boots of these devices.
	{"GET", "/boots/keys", scopedAccount, unlimited, noBody, (*Server).listManifestKeys},
	{"POST", "/boots/keys", fullSession, signInRate, jsonBody, (*Server).addManifestKey},
	{"DELETE", "/boots/keys/{id}", fullSession, unlimited, noBody, (*Server).removeManifestKey},
	{"GET", "/boots/manifests", scopedAccount, unlimited, noBody, (*Server).listManifests},
	{"POST", "/boots/manifests", scopedAccount, unlimited, maxManifest, (*Server).addManifest},
	{"DELETE", "/boots/manifests/{id}", scopedAccount, unlimited, noBody, (*Server).removeManifest},
	{"GET", "/boots/cohorts", scopedAccount, unlimited, noBody, (*Server).listCohorts},
	{"GET", "/boots/cohorts/{part}/{value}", scopedAccount, unlimited, noBody, (*Server).showCohort},
	{"GET", "/boots/decisions", scopedAccount, unlimited, noBody, (*Server).listBootDecisions},
	{"POST", "/boots/decisions", scopedAccount, unlimited, jsonBody, (*Server).addBootDecision},
	{"DELETE", "/boots/decisions/{id}", scopedAccount, unlimited, noBody, (*Server).removeBootDecision},
	{"GET", "/events", scopedAccount, unlimited, noBody, (*Server).listEvents},

	// The fleet: searches and numbers.
	{"GET", "/fleet/devices", scopedAccount, unlimited, noBody, (*Server).searchDevices},
	{"GET", "/fleet/count", scopedAccount, unlimited, noBody, (*Server).countDevices},
	{"GET", "/fleet/summary", scopedAccount, unlimited, noBody, (*Server).showFleet},
	{"GET", "/fleet/judgements", scopedAccount, inHandler, noBody, (*Server).rejudge}, // two at the same time for each account

	// Trails and their revisions, which are called steps in Pantacor's paths.
	{"POST", "/trails/?", activeDevice, unlimited, stateBody, (*Server).createTrail},
	{"GET", "/trails/?", accountOrDevice, unlimited, noBody, (*Server).listTrails},
	{"GET", "/trails/summary/?", scopedAccount, unlimited, noBody, (*Server).listSummaries},
	{"GET", "/trails/{id}/?", accountOrDevice, unlimited, noBody, (*Server).showTrail},
	{"GET", "/trails/{id}/summary", accountOrDevice, unlimited, noBody, (*Server).showSummary},
	{"GET", "/trails/{id}/.pvrremote", accountOrDevice, unlimited, noBody, (*Server).showRemote},
	{"POST", "/trails/{id}/steps/?", accountOrDevice, unlimited, stateBody, (*Server).createRevision},
	{"GET", "/trails/{id}/steps/?", accountOrDevice, unlimited, noBody, (*Server).listRevisions},
	{"GET", "/trails/{id}/steps/{rev}/?", accountOrDevice, unlimited, noBody, (*Server).showRevision},
	{"GET", "/trails/{id}/steps/{rev}/.pvrremote", accountOrDevice, unlimited, noBody, (*Server).showRemote},
	{"GET", "/trails/{id}/steps/{rev}/state", accountOrDevice, unlimited, noBody, (*Server).showState},
	{"PUT", "/trails/{id}/steps/{rev}/state", accountOrDevice, unlimited, stateBody, (*Server).putState},
	{"GET", "/trails/{id}/steps/{rev}/meta", accountOrDevice, unlimited, noBody, (*Server).showRevisionMeta},
	{"PUT", "/trails/{id}/steps/{rev}/meta", scopedAccount, unlimited, trail.MaxMeta, (*Server).putRevisionMeta},
	{"PUT", "/trails/{id}/steps/{rev}/progress", activeDevice, unlimited, trail.MaxProgress, (*Server).putProgress},
	{"PUT", "/trails/{id}/steps/{rev}/cancel", scopedAccount, unlimited, noBody, (*Server).cancelRevision},
	{"PUT", "/trails/{id}/steps/{rev}/wontgo", scopedAccount, unlimited, noBody, (*Server).stopRevision},
	{"POST", "/trails/{id}/steps/{rev}/objects/?", accountOrDevice, unlimited, jsonBody, (*Server).createRevisionObject},
	{"GET", "/trails/{id}/steps/{rev}/objects/?", accountOrDevice, unlimited, noBody, (*Server).listRevisionObjects},
	{"GET", "/trails/{id}/steps/{rev}/objects/{sha}", accountOrDevice, unlimited, noBody, (*Server).showRevisionObject},
	{"GET", "/trails/{id}/steps/{rev}/objects/{sha}/blob", accountOrDevice, unlimited, noBody, (*Server).redirectToBlob},

	// Objects and their files, and devices' logs.
	{"POST", "/objects/?", accountOrDevice, unlimited, jsonBody, (*Server).createObject},
	{"GET", "/objects/?", scopedAccount, unlimited, noBody, (*Server).listObjects},
	{"GET", "/objects/{sha}", accountOrDevice, unlimited, noBody, (*Server).showObject},
	{"GET", "/local-s3/{token}", urlHolder, unlimited, noBody, (*Server).getBlob},
	{"PUT", "/local-s3/{token}", urlHolder, unlimited, announcedBody, (*Server).putBlob},
	{"PATCH", "/local-s3/{token}", urlHolder, unlimited, announcedBody, (*Server).appendBlob},
	{"POST", "/logs/?", activeDevice, unlimited, maxLogBody, (*Server).appendLogs},
	{"GET", "/logs/?", scopedAccount, unlimited, noBody, (*Server).listLogs},
	{"POST", "/logs/cursor/?", scopedAccount, unlimited, jsonBody, (*Server).continueLogs},
	{"GET", "/logs/retention", scopedAccount, unlimited, noBody, (*Server).showLogRetention},
	{"PUT", "/logs/retention", scopedAccount, unlimited, jsonBody, (*Server).putLogRetention},

	// Pages for browsers.
	{"GET", "/", visitor, unlimited, noBody, (*Server).showRoot},
	{"GET", "/assets/{file}", anyone, unlimited, noBody, (*Server).asset},
	{"GET", "/sign-in", visitor, unlimited, noBody, (*Server).signInForm},
	{"POST", "/sign-in", anyone, signInRate, formBody, (*Server).signIn},
	{"POST", "/sign-out", visitor, unlimited, formBody, (*Server).signOut},
	{"GET", "/ui/overview", fullSession, unlimited, noBody, (*Server).showOverview},
	{"GET", "/ui/revisions", fullSession, unlimited, noBody, (*Server).showRevisions},
	{"GET", "/ui/revisions/row", fullSession, unlimited, noBody, (*Server).showRevisionRow},
	{"GET", "/ui/onboard/waiting", fullSession, unlimited, noBody, (*Server).showWaiting},
	{"GET", "/ui/onboard/waiting/{id}", fullSession, unlimited, noBody, (*Server).showWaitingMachine},
	{"GET", "/ui/onboard/waiting/group", fullSession, unlimited, noBody, (*Server).showGroup},
	{"GET", "/ui/onboard/claim", fullSession, inHandler, noBody, (*Server).showClaimForm},        // claimRate, if a code is typed
	{"POST", "/ui/onboard/claim", fullSession, inHandler, formBody, (*Server).claimDeviceOnPage}, // claimRate
	{"GET", "/ui/onboard/claim/{id}", fullSession, unlimited, noBody, (*Server).showArrival},
	{"GET", "/ui/onboard/claim/{id}/steps", fullSession, unlimited, noBody, (*Server).showArrivalSteps},
	{"GET", "/ui/wall", fullSession, unlimited, noBody, (*Server).showWall},
	{"GET", "/ui/wall/part", fullSession, unlimited, noBody, (*Server).showWallPart},
	{"POST", "/ui/waiting/decide", fullSession, unlimited, formBody, (*Server).decideOnPage},
	{"POST", "/ui/cloned/decide", fullSession, unlimited, formBody, (*Server).decideClonedOnPage},
	{"GET", "/ui/overview/numbers", fullSession, unlimited, noBody, (*Server).showNumbers},
	{"GET", "/ui/live", fullSession, unlimited, noBody, (*Server).showLive},
	{"GET", "/ui/devices", fullSession, unlimited, noBody, (*Server).showDevices},
	{"GET", "/ui/devices/lost", fullSession, unlimited, noBody, (*Server).showLost},
	{"GET", "/ui/devices/row", fullSession, unlimited, noBody, (*Server).showRow},
	{"GET", "/ui/devices.csv", fullSession, unlimited, noBody, (*Server).exportCSV},
	{"GET", "/ui/devices.json", fullSession, unlimited, noBody, (*Server).exportJSON},
	{"POST", "/ui/views", fullSession, unlimited, formBody, (*Server).saveView},
	{"POST", "/ui/views/delete", fullSession, unlimited, formBody, (*Server).deleteViewOnPage},
	{"GET", "/ui/bulk", fullSession, unlimited, noBody, (*Server).previewBulk},
	{"POST", "/ui/bulk", fullSession, unlimited, formBody, (*Server).doBulk},
	{"POST", "/ui/bulk/undo", fullSession, unlimited, formBody, (*Server).undoBulk},
	{"GET", "/ui/devices/{id}", fullSession, unlimited, noBody, (*Server).showDevicePage},
	{"GET", "/ui/devices/{id}/certificates/{file}", fullSession, unlimited, noBody, (*Server).downloadCertificate},
	{"GET", "/ui/devices/{id}/log.txt", fullSession, unlimited, noBody, (*Server).downloadLog},
	{"POST", "/ui/devices/{id}/boot/reference", fullSession, unlimited, formBody, (*Server).acceptBootOnPage},
	{"POST", "/ui/devices/{id}/boot/request", fullSession, unlimited, formBody, (*Server).requestBootOnPage},
	{"POST", "/ui/devices/{id}/metadata", fullSession, unlimited, metaFormBody, (*Server).editMetaOnPage},
	{"POST", "/ui/devices/{id}/revisions", fullSession, unlimited, stateFormBody, (*Server).postRevisionOnPage},
	{"POST", "/ui/devices/{id}/revisions/{rev}/cancel", fullSession, unlimited, formBody, (*Server).cancelRevisionOnPage},
	{"POST", "/ui/devices/{id}/rename", fullSession, unlimited, formBody, (*Server).renameOnPage},
	{"POST", "/ui/devices/{id}/public", fullSession, unlimited, formBody, (*Server).publishOnPage},
	{"POST", "/ui/devices/{id}/delete", fullSession, unlimited, formBody, (*Server).deleteOnPage},
	{"GET", "/ui/onboard", fullSession, unlimited, noBody, (*Server).showTokens},
	{"GET", "/ui/onboard/new", fullSession, unlimited, noBody, (*Server).newTokenForm},
	{"POST", "/ui/onboard/new", fullSession, unlimited, formBody, (*Server).createTokenOnPage},
	{"GET", "/ui/onboard/image", fullSession, unlimited, noBody, (*Server).showImage},
	{"POST", "/ui/onboard/image", fullSession, unlimited, formBody, (*Server).buildImageOnPage},
	{"GET", "/ui/onboard/image/state", fullSession, unlimited, noBody, (*Server).showImageState},
	{"GET", "/ui/onboard/tokens/{id}", fullSession, unlimited, noBody, (*Server).showToken},
	{"POST", "/ui/onboard/tokens/{id}/file", fullSession, unlimited, formBody, (*Server).downloadTokenFile},
	{"POST", "/ui/onboard/tokens/{id}/disable", fullSession, unlimited, formBody, (*Server).disableTokenOnPage},
	{"POST", "/ui/onboard/tokens/{id}/delete", fullSession, unlimited, formBody, (*Server).deleteTokenOnPage},
	{"GET", "/ui/audit", fullSession, unlimited, noBody, (*Server).showAudit},
	{"GET", "/ui/audit/news", fullSession, unlimited, noBody, (*Server).showAuditNews},
	{"GET", "/ui/audit.csv", fullSession, unlimited, noBody, (*Server).exportAuditCSV},
	{"GET", "/ui/audit.json", fullSession, unlimited, noBody, (*Server).exportAuditJSON},
	{"GET", "/ui/settings", fullSession, unlimited, noBody, (*Server).showSettings},
	{"POST", "/ui/settings/password", fullSession, signInRate, formBody, (*Server).changePasswordOnPage},
	{"POST", "/ui/settings/logs", fullSession, unlimited, formBody, (*Server).setLogRetentionOnPage},
	{"POST", "/ui/settings/disable", fullSession, signInRate, formBody, (*Server).disableOnPage},
	{"POST", "/ui/settings/delete", fullSession, signInRate, formBody, (*Server).deleteAccountOnPage},
	{"GET", "/ui/settings/sessions", fullSession, unlimited, noBody, (*Server).showSettings},
	{"POST", "/ui/settings/sessions", fullSession, unlimited, formBody, (*Server).endSessionOnPage},
	{"GET", "/ui/settings/api-tokens", fullSession, unlimited, noBody, (*Server).showSettings},
	{"POST", "/ui/settings/api-tokens", fullSession, unlimited, formBody, (*Server).createAPITokenOnPage},
	{"POST", "/ui/settings/api-tokens/revoke", fullSession, unlimited, formBody, (*Server).revokeAPITokenOnPage},
	{"GET", "/ui/trust", fullSession, unlimited, noBody, (*Server).showMakers},
	{"POST", "/ui/trust", fullSession, unlimited, checkBody, (*Server).checkCertificates},
	{"GET", "/ui/trust/eks", fullSession, unlimited, noBody, (*Server).showEKListPage},
	{"GET", "/ui/trust/eks.csv", fullSession, unlimited, noBody, (*Server).exportEKList},
	{"POST", "/ui/trust/eks/add", fullSession, unlimited, formBody, (*Server).addEKOnPage},
	{"POST", "/ui/trust/eks/remove", fullSession, unlimited, formBody, (*Server).removeEKOnPage},
	{"POST", "/ui/trust/eks/upload", fullSession, unlimited, ekListForm, (*Server).uploadEKList},
	{"POST", "/ui/trust/eks/clear", fullSession, unlimited, formBody, (*Server).clearEKList},
	{"GET", "/ui/trust/policy", fullSession, unlimited, noBody, (*Server).showPolicyPage},
	{"POST", "/ui/trust/policy", fullSession, unlimited, policyFormBody, (*Server).editPolicyOnPage},
	{"POST", "/ui/trust/policy/check", fullSession, unlimited, policyFormBody, (*Server).checkPolicyOnPage},
	{"GET", "/ui/trust/judge", fullSession, inHandler, noBody, (*Server).showJudge}, // two at the same time for each account
	{"GET", "/ui/boots", fullSession, unlimited, noBody, (*Server).showBoots},
	{"GET", "/ui/boots/{part}/{value}", fullSession, unlimited, noBody, (*Server).showBootCohort},
	{"POST", "/ui/boots/accept", fullSession, unlimited, formBody, (*Server).acceptCohortOnPage},
	{"POST", "/ui/boots/undo", fullSession, unlimited, formBody, (*Server).undoCohortOnPage},
	{"POST", "/ui/boots/preview-key", fullSession, unlimited, bootRuleBody, (*Server).previewKeyOnPage},
	{"POST", "/ui/boots/key", fullSession, signInRate, bootRuleBody, (*Server).addKeyOnPage},
	{"GET", "/ui/boots/key/{id}", fullSession, unlimited, noBody, (*Server).showKeyRemoval},
	{"POST", "/ui/boots/key/{id}", fullSession, unlimited, formBody, (*Server).removeKeyOnPage},
	{"POST", "/ui/boots/preview-manifest", fullSession, unlimited, bootRuleBody, (*Server).previewManifestOnPage},
	{"POST", "/ui/boots/manifest", fullSession, unlimited, bootRuleBody, (*Server).addManifestOnPage},
	{"GET", "/ui/boots/manifest/{id}", fullSession, unlimited, noBody, (*Server).showManifestRemoval},
	{"POST", "/ui/boots/manifest/{id}", fullSession, unlimited, formBody, (*Server).removeManifestOnPage},
	{"GET", "/ui/operator", operator, unlimited, noBody, (*Server).showOperator},
	{"GET", "/ui/operator/makers", operator, unlimited, noBody, (*Server).showOperator},
	{"GET", "/ui/operator/makers/add", operator, unlimited, noBody, (*Server).showAddMakers},
	{"POST", "/ui/operator/makers/add", operator, signInRate, checkBody, (*Server).addMakers},
	{"GET", "/ui/operator/makers/{sha256}", operator, unlimited, noBody, (*Server).showMaker},
	{"POST", "/ui/operator/makers/{sha256}", operator, signInRate, formBody, (*Server).decideMaker},
	{"GET", "/ui/operator/versions", operator, unlimited, noBody, (*Server).showOperator},
	{"GET", "/ui/operator/health", operator, unlimited, noBody, (*Server).showOperator},
	{"GET", "/ui/operator/alarms", operator, unlimited, noBody, (*Server).showOperator},
	{"GET", "/claim/{code}", visitor, unlimited, noBody, (*Server).claimPage},
	{"POST", "/claim/{code}", fullVisitor, signInRate, formBody, (*Server).claimOnPage},
}

// name returns the route's method and path as openapi.json writes them.
func (rt *route) name() string { return rt.method + " " + strings.TrimSuffix(rt.path, "/?") }

// widened has the routes whose paths http.ServeMux does not accept as patterns. ServeMux refuses
// DELETE /devices/{id}/public because of the route DELETE /devices/tokens/{id}: the request DELETE
// /devices/tokens/public would match both patterns, and neither is more specific. So the mux gets a
// pattern with a wildcard as the last segment, and route.matches checks that segment.
var widened = map[string]string{
	"DELETE /devices/{id}/public": "DELETE /devices/{id}/{last}",
}

// patterns returns the mux's patterns for the route.
func (rt *route) patterns() []string {
	if wide, ok := widened[rt.name()]; ok {
		return []string{wide}
	}
	path, optional := strings.CutSuffix(rt.path, "/?")
	list := []string{rt.method + " " + path}
	if strings.HasSuffix(path, "/") {
		list[0] += "{$}"
	}
	if optional {
		list = append(list, rt.method+" "+path+"/{$}")
	}
	return list
}

// matches reports whether a path belongs to the route, because the mux's patterns for the route may
// match other paths too.
func (rt *route) matches(u *url.URL) bool {
	if _, ok := widened[rt.name()]; !ok {
		return true
	}
	last, err := url.PathUnescape(lastSegment(u.EscapedPath()))
	return err == nil && last == lastSegment(rt.path)
}

func lastSegment(path string) string { return path[strings.LastIndex(path, "/")+1:] }

// router finds a request's route.
type router struct {
	mux       *http.ServeMux
	byPattern map[string]*route
}

// newHandler makes the handler of all routes.
func (s *Server) newHandler() http.Handler {
	ro := router{mux: http.NewServeMux(), byPattern: map[string]*route{}}
	none := s.errorHandler(ro.noRoute)
	for i := range routes {
		rt := &routes[i]
		serve := s.errorHandler(func(w http.ResponseWriter, r *http.Request) error { return s.serve(rt, w, r) })
		for _, pattern := range rt.patterns() {
			ro.byPattern[pattern] = rt
			label := pattern
			if _, wide := widened[rt.name()]; wide {
				label = rt.name()
			}
			timed := s.metrics.timed(label, serve)
			ro.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
				if !rt.matches(r.URL) {
					none.ServeHTTP(w, r)
					return
				}
				timed.ServeHTTP(w, r)
			})
		}
	}
	ro.mux.Handle("/", s.metrics.timed("/", none))
	s.routes = ro.byPattern
	return s.secured(ro.mux)
}

// errorHandler returns a handler that calls `h` and, if `h` returns an error, answers with that
// error.
func (s *Server) errorHandler(h func(w http.ResponseWriter, r *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			s.fail(w, r, err)
		}
	})
}

// serve answers a request for a route, after making the checks in the route's row of the table.
func (s *Server) serve(rt *route, w http.ResponseWriter, r *http.Request) error {
	if onPages(r) && rt.forDevices() {
		return s.errDeviceRoute()
	}
	r, err := s.checkDisk(rt, r)
	if err != nil {
		return err
	}
	if l := s.limiters[rt.rate]; l != nil && !l.allow(network(remoteAddr(r)), s.cfg.Now()) {
		return errTooFast
	}
	leave, err := s.admit(rt, r)
	if err != nil {
		return err
	}
	defer leave()
	enlargeStack()
	hintAssets(rt, w, r)
	c, err := s.identify(r, rt.who)
	if err != nil {
		return err
	}
	if rt.rate == bootRate && !s.boots.allow(c.Device.ID, s.cfg.Now()) {
		return problem(http.StatusTooManyRequests, "too-many-requests", "Wait a few seconds and try again.", "The device sends boot measurements too often.")
	}
	if rt.body != announcedBody {
		r.Body = http.MaxBytesReader(w, r.Body, rt.body)
	}
	factsIn(r.Context()).caller = &c
	if err := s.checkFormToken(r, c); err != nil {
		return s.answerError(w, r, err)
	}
	if err := rt.handle(s, w, r); err != nil {
		return s.answerError(w, r, err)
	}
	return nil
}

// enlargeStack makes the stack of a request's goroutine as large as a read of the database needs.
// Otherwise, the stack would grow several times within SQLite, and each time all its frames would
// be copied, which took 4 percent of an onboarding's CPU time.
//
//go:noinline
func enlargeStack() byte {
	var b [16 << 10]byte
	return b[stackByte.Load()]
}

// stackByte is always 0, but the compiler does not know that, so it cannot remove the array in
// enlargeStack.
var stackByte atomic.Uint32

// answerError answers with an error. It is used once the method `identify` has found the caller, so
// that an error page has the layout for signed-in people.
func (s *Server) answerError(w http.ResponseWriter, r *http.Request, err error) error {
	s.fail(w, r, err)
	return nil
}

// noRoute answers a request that matches no route. The answer is 405 if the path has routes for
// other methods, and otherwise 404.
func (ro *router) noRoute(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		_, pattern := ro.mux.Handler(&http.Request{Method: method, Host: r.Host, URL: r.URL})
		if rt := ro.byPattern[pattern]; rt != nil && rt.matches(r.URL) {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		return problem(http.StatusNotFound, "no-such-route", "See /openapi.json for the routes.", "The hub has no route with this path.")
	}
	list := strings.Join(allowed, ", ")
	w.Header().Set("Allow", list)
	return problem(http.StatusMethodNotAllowed, "method", "Use "+list+"; see /openapi.json.", "The hub does not support this method for this path.")
}
