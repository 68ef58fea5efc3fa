package main

import (
	"log/slog"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/onboard"
	"gangway/hub/otlp"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/tracing"
)

// Each option of serve must reach the hub. If a change of the code lost an option, the option would
// silently have no effect. So the test gives each option a value, and checks that each field of the
// hub's configuration then has a value.
func TestEachOptionReachesTheHub(t *testing.T) {
	t.Parallel()
	o := serverOptions{
		openRegistration: true, tls12: true, proxy: &api.Proxy{}, quota: 1, rates: api.Rates{"onboard": {PerSecond: 1, Burst: 1}},
		timeouts: api.Timeouts{Header: 1}, capacity: 8, proxyProtocol: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		eventsAge: time.Hour, unprovenAge: time.Hour, drain: time.Second, images: &imageBuilder{}, imageLimits: api.ImageLimits{AtOnce: 1},
		pageURL: "https://fleet.example", pageCertificate: onePageCertificate{}, logs: &otlp.Exporter{},
		logAge: time.Hour, logBounds: store.LogBounds{Rows: 1, Bytes: 1}, restore: &store.Restore{Epoch: 1},
		accessLog: slog.New(slog.DiscardHandler), traces: &tracing.Traces{}, profiles: true,
	}
	given := reflect.ValueOf(o)
	for i := range given.NumField() {
		if given.Field(i).IsZero() {
			t.Errorf("the test gives no value for the option %s", given.Type().Field(i).Name)
		}
	}
	hub := &instance{dir: "/data", ca: &pki.Hub{}, engine: &postgres.Store{}, objectsAt: "s3://fleet"}
	c := reflect.ValueOf(hub.config([]string{"https://a", "https://b"}, []string{"a"}, &onboard.Service{}, slog.New(slog.DiscardHandler), o))
	for i := range c.NumField() {
		switch name := c.Type().Field(i).Name; name {
		case "Store", "Objects": // not tested here
		default:
			if c.Field(i).IsZero() {
				t.Errorf("the hub's configuration has no %s", name)
			}
		}
	}
}

type onePageCertificate struct{ api.PageCertificate }
