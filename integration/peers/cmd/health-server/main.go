// A backend for the tests whose health can be told: gRPC with the health service of grpc-go, and HTTPS with /healthz of
// net/http. At its control port `POST /serving` and `POST /ailing` say which of both it is; every
// answer names it. The line it prints has the addresses for gRPC, for HTTPS and for control.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

func main() {
	name := flag.String("name", "", "what answers are signed with")
	service := flag.String("service", "", "the gRPC service that is healthy or not, beside the server")
	grpcListen := flag.String("grpc", "", "where to listen for gRPC")
	httpsListen := flag.String("https", "", "where to listen for HTTPS")
	control := flag.String("control", "", "where to be told of one's health")
	certificate := flag.String("certificate", "", "PEM; gRPC is inside TLS where it is set")
	key := flag.String("key", "", "PEM")
	flag.Parse()

	var pair tls.Certificate
	if *certificate != "" {
		var err error
		if pair, err = tls.LoadX509KeyPair(*certificate, *key); err != nil {
			log.Fatal(err)
		}
	}
	var ailing atomic.Bool
	state := health.NewServer()
	tell := func(is bool) {
		ailing.Store(is)
		status := healthpb.HealthCheckResponse_SERVING
		if is {
			status = healthpb.HealthCheckResponse_NOT_SERVING
		}
		state.SetServingStatus(*service, status)
	}
	tell(false)

	at := []string{"-", "-", "-"}
	if *grpcListen != "" {
		answer := func(_ any, stream grpc.ServerStream) error {
			// To the end of the call first: an answer before it makes the server reset the stream.
			for stream.RecvMsg(new(healthpb.HealthCheckRequest)) == nil {
			}
			return stream.SendHeader(metadata.Pairs("x-backend", *name))
		}
		options := []grpc.ServerOption{grpc.UnknownServiceHandler(answer)}
		if *certificate != "" {
			options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
		}
		server := grpc.NewServer(options...)
		healthpb.RegisterHealthServer(server, state)
		listener := listen(*grpcListen)
		at[0] = listener.Addr().String()
		go func() { log.Fatal(server.Serve(listener)) }()
	}
	if *httpsListen != "" {
		mux := http.NewServeMux()
		mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
			if ailing.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
		mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("x-backend", *name) })
		server := &http.Server{Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
		listener := listen(*httpsListen)
		at[1] = listener.Addr().String()
		go func() { log.Fatal(server.ServeTLS(listener, "", "")) }()
	}
	http.HandleFunc("POST /serving", func(http.ResponseWriter, *http.Request) { tell(false) })
	http.HandleFunc("POST /ailing", func(http.ResponseWriter, *http.Request) { tell(true) })
	listener := listen(*control)
	at[2] = listener.Addr().String()
	fmt.Println(at[0], at[1], at[2])
	log.Fatal(http.Serve(listener, nil))
}

func listen(address string) net.Listener {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	return listener
}
