// The Gateway API conformance suite as published, with its own flags, and a list of what it consists of.
package conformance_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}

// TestList prints the features and tests that concern gateways, as "feature NAME" and "test NAME PROFILE/LEVEL…". It
// needs no cluster.
func TestList(*testing.T) {
	mesh := features.SetsToNamesSet(features.MeshCoreFeatures, features.MeshExtendedFeatures)
	for _, name := range sets.List(features.SetsToNamesSet(features.AllFeatures).Difference(mesh)) {
		fmt.Println("feature", name)
	}
	profiles := []suite.ConformanceProfile{
		suite.GatewayHTTPConformanceProfile, suite.GatewayGRPCConformanceProfile, suite.GatewayTLSConformanceProfile,
		suite.GatewayTCPConformanceProfile, suite.GatewayUDPConformanceProfile,
	}
	for _, test := range tests.ConformanceTests {
		if slices.ContainsFunc(test.Features, mesh.Has) {
			continue
		}
		words := []string{"test", test.ShortName}
		for _, profile := range profiles {
			switch {
			case profile.CoreFeatures.HasAll(test.Features...):
				words = append(words, string(profile.Name)+"/core")
			case profile.CoreFeatures.Union(profile.ExtendedFeatures).HasAll(test.Features...):
				words = append(words, string(profile.Name)+"/extended")
			}
		}
		fmt.Println(strings.Join(words, " "))
	}
}
