// An authorizer for the tests, with Envoy's own definitions of the protocol: over gRPC
// (envoy.service.auth.v3.Authorization) and over HTTP. It lets pass who has `x-allow: yes`, denies everybody else, and
// tells in fields what it was told. With -bearers it is the authorizer of Envoy Gateway's documentation: who bears token1 is
// user1, and everybody else is forbidden.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sort"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcstatus "google.golang.org/grpc/status"
)

type authorizer struct {
	authv3.UnimplementedAuthorizationServer
	bearers bool
}

// The user who bears a documented token; empty for everybody else.
func bearer(authorization string) string {
	for _, number := range []string{"1", "2", "3"} {
		if authorization == "Bearer token"+number {
			return "user" + number
		}
	}
	return ""
}

func option(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}}
}

func documented(authorization string) *authv3.CheckResponse {
	user := bearer(authorization)
	if user == "" {
		return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.PermissionDenied)}}
	}
	return &authv3.CheckResponse{
		Status: &status.Status{Code: int32(codes.OK)},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: []*corev3.HeaderValueOption{option("x-current-user", user)},
		}},
	}
}

func documentedOverHTTP(w http.ResponseWriter, r *http.Request) {
	user := bearer(r.Header.Get("authorization"))
	if user == "" {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	w.Header().Set("x-current-user", user)
}

func (a authorizer) Check(ctx context.Context, request *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	attributes := request.GetAttributes()
	asked := attributes.GetRequest().GetHttp()
	if a.bearers {
		return documented(asked.GetHeaders()["authorization"]), nil
	}
	switch asked.GetHeaders()["x-mode"] {
	case "slow":
		select {
		case <-time.After(time.Minute):
		case <-ctx.Done():
		}
		return nil, ctx.Err()
	case "error":
		return nil, grpcstatus.Error(codes.Internal, "broken")
	}
	names := make([]string, 0, len(attributes.GetContextExtensions()))
	for name, value := range attributes.GetContextExtensions() {
		names = append(names, name+"="+value)
	}
	sort.Strings(names)
	told := fmt.Sprintf("%s %s%s from %s ext %s body %d", asked.GetMethod(), asked.GetHost(), asked.GetPath(),
		attributes.GetSource().GetAddress().GetSocketAddress().GetAddress(), strings.Join(names, ","), len(asked.GetBody()))
	if asked.GetHeaders()["x-allow"] != "yes" {
		return &authv3.CheckResponse{
			Status: &status.Status{Code: int32(codes.PermissionDenied)},
			HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
				Status:  &typev3.HttpStatus{Code: typev3.StatusCode_Unauthorized},
				Headers: []*corev3.HeaderValueOption{option("x-told", told), option("www-authenticate", "Test")},
				Body:    "not you\n",
			}},
		}, nil
	}
	return &authv3.CheckResponse{
		Status: &status.Status{Code: int32(codes.OK)},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers:              []*corev3.HeaderValueOption{option("x-user", "alice"), option("x-told", told)},
			HeadersToRemove:      []string{"x-allow", "host"},
			ResponseHeadersToAdd: []*corev3.HeaderValueOption{option("x-checked", "yes")},
		}},
	}, nil
}

func overHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Header.Get("x-mode") {
	case "slow":
		select {
		case <-time.After(time.Minute):
		case <-r.Context().Done():
		}
		return
	case "error":
		http.Error(w, "broken", http.StatusInternalServerError)
		return
	}
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("x-told", fmt.Sprintf("%s %s%s body %d secret %q", r.Method, r.Host, r.URL.RequestURI(), len(body), r.Header.Get("x-secret")))
	if r.Header.Get("x-allow") != "yes" {
		w.Header().Set("www-authenticate", "Test")
		http.Error(w, "not you", http.StatusUnauthorized)
		return
	}
	w.Header().Set("x-user", "alice")
	w.Header().Set("x-other", "unlisted")
}

func main() {
	grpcListen := flag.String("grpc", "", "where to listen for gRPC")
	httpListen := flag.String("http", "", "where to listen for HTTP")
	certificate := flag.String("certificate", "", "certificate of gRPC over TLS")
	key := flag.String("key", "", "its key")
	bearers := flag.Bool("bearers", false, "let pass who bears a token of Envoy Gateway's documentation")
	flag.Parse()
	listener, err := net.Listen("tcp", *grpcListen)
	if err != nil {
		log.Fatal(err)
	}
	var options []grpc.ServerOption
	if *certificate != "" {
		identity, err := credentials.NewServerTLSFromFile(*certificate, *key)
		if err != nil {
			log.Fatal(err)
		}
		options = append(options, grpc.Creds(identity))
	}
	server := grpc.NewServer(options...)
	authv3.RegisterAuthorizationServer(server, authorizer{bearers: *bearers})
	go func() { log.Fatal(server.Serve(listener)) }()
	plain, err := net.Listen("tcp", *httpListen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	answer := overHTTP
	if *bearers {
		answer = documentedOverHTTP
	}
	log.Fatal(http.Serve(plain, http.HandlerFunc(answer)))
}
