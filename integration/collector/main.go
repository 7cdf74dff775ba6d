// An OpenTelemetry collector for the tests: the official OTLP receiver, over HTTP and gRPC, and behind it nothing but a
// file, into which every batch is written as one line of OTLP in JSON.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
)

// One line per batch; receivers call it from many goroutines.
type lines struct {
	lock sync.Mutex
	file *os.File
}

func (l *lines) write(line []byte, err error) error {
	if err != nil {
		return err
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	_, err = l.file.Write(append(line, '\n'))
	return err
}

func main() {
	http := flag.String("http", "127.0.0.1:4318", "where OTLP over HTTP is received")
	grpc := flag.String("grpc", "127.0.0.1:4317", "where OTLP over gRPC is received")
	output := flag.String("output", "", "the file that batches are appended to")
	certificate := flag.String("certificate", "", "PEM file: with it and -key both are served inside TLS")
	key := flag.String("key", "", "PEM file")
	flag.Parse()
	file, err := os.OpenFile(*output, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	out := &lines{file: file}

	server := func(endpoint string) map[string]any {
		settings := map[string]any{"endpoint": endpoint}
		if *certificate != "" {
			settings["tls"] = map[string]any{"cert_file": *certificate, "key_file": *key}
		}
		return settings
	}
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	given := map[string]any{"protocols": map[string]any{"http": server(*http), "grpc": server(*grpc)}}
	if err := confmap.NewFromStringMap(given).Unmarshal(config); err != nil {
		log.Fatal(err)
	}
	settings := receiver.Settings{
		ID:                component.NewID(factory.Type()),
		TelemetrySettings: componenttest.NewNopTelemetrySettings(),
	}
	traces, err := consumer.NewTraces(func(_ context.Context, batch ptrace.Traces) error {
		return out.write((&ptrace.JSONMarshaler{}).MarshalTraces(batch))
	})
	if err != nil {
		log.Fatal(err)
	}
	metrics, err := consumer.NewMetrics(func(_ context.Context, batch pmetric.Metrics) error {
		return out.write((&pmetric.JSONMarshaler{}).MarshalMetrics(batch))
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ofTraces, err := factory.CreateTraces(ctx, settings, config, traces)
	if err != nil {
		log.Fatal(err)
	}
	ofMetrics, err := factory.CreateMetrics(ctx, settings, config, metrics)
	if err != nil {
		log.Fatal(err)
	}
	// The two are one receiver underneath.
	for _, part := range []component.Component{ofTraces, ofMetrics} {
		if err := part.Start(ctx, componenttest.NewNopHost()); err != nil {
			log.Fatal(err)
		}
	}
	<-ctx.Done()
	for _, part := range []component.Component{ofTraces, ofMetrics} {
		if err := part.Shutdown(context.Background()); err != nil {
			log.Print(err)
		}
	}
}
