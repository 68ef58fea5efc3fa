package onboard_test

import (
	"testing"

	"gangway/hub/store/storetest"
)

// absent provides the methods of storetest.Engine that fake lacks. A test that calls such a method
// panics.
type absent struct{ storetest.Engine }

type partialEngine struct {
	*fake
	absent
}

func TestFakeDoesWhatEnginesDo(t *testing.T) {
	t.Parallel()
	storetest.RunPart(t, func(*testing.T) storetest.Engine { return partialEngine{fake: newFake()} },
		"JoinTokens/ByID", "JoinTokens/WithTheTPMsGeneration", "JoinTokens/UnknownIsNotFound", "JoinTokens/UsesCountDevicesOnce", "JoinTokens/EachTokenCountsTheDevice", "JoinTokens/DeletionGivesNoUseBack", "JoinTokens/ReturningDevicePassesAUsedUpToken",
		"Enrolments/StoredAsPending", "Enrolments/UnknownIsNotFound", "Enrolments/BareOneComesBackBare", "Enrolments/SameRequestSameAnswer", "Enrolments/SameRequestAfterActivation", "Enrolments/SameRequestAfterDeletionStaysRevoked", "Enrolments/UnchangedIsStored", "Enrolments/ChangedIsNotStored", "Enrolments/OverduePendingIsReplaced", "Enrolments/ExpiredIsReplaced", "Enrolments/CertificateOfAnotherRequestExists", "Enrolments/PendingTouchesNothing",
		"Activation/MakesTheDevice", "Activation/FirstOnlyOfANewDevice", "Activation/BindsTheTPM", "Activation/RegistersTheAIK", "Activation/TwiceIsOnce", "Activation/RequestThatBeginsAgainSupersedes", "Activation/NewAIKJoinsTheOld",
		"Refusals/UnknownCertificate", "Refusals/PendingTooLong", "Refusals/Expired", "Refusals/Superseded", "Refusals/LateActivationOfAnOlderRequest", "Refusals/LateActivationOfTheFirstRequest", "Refusals/LateActivationAfterTheClockWentBack", "Refusals/DeviceDeletedAfterwards", "Refusals/DeviceDeletedWhilePending", "Refusals/AnotherOwnersPendingIsRefusedToo", "Refusals/GenerationFromTheFuture", "Refusals/DeletedDeviceUnderItsOldID", "Refusals/TPMOfAnotherOwner", "Refusals/IAKOfAnotherEK", "Refusals/SecondDeviceOnOneTPM", "Refusals/SecondTPMForOneDevice", "Refusals/TokenUnknown", "Refusals/TokenOfAnotherOwner", "Refusals/OwnerGone", "Refusals/TokenDisabled", "Refusals/TokenDisabledForAReturningDevice", "Refusals/TokenExpired", "Refusals/TokenUsedUp", "Refusals/SecondTokenUsedUpForAKnownDevice",
		"Deletion/OnlyByItsOwnerAndOnce", "Deletion/RevokesWhatIsOpen", "Deletion/ReleasesTheTPM", "Deletion/AllItsAIKsLeave", "Deletion/TheTPMMayComeBackToAnybody",
		"IssuedAIKs/IsBounded",
		"Waiting/NoRequestUndoesADecision", "Waiting/DecisionAboutWhatHasChanged", "Waiting/WaitingDevicesAreBounded", "Waiting/DeletionEndsTheApproval", "Waiting/Policies", "Waiting/EKLists",
		"EKCertificates/ActivationsOwnIsKept", "EKCertificates/SurvivesTheRelease",
		"Clones/PutAndReplacedByVersion", "Clones/OneOfManyWritersWins", "Clones/RefusedDeviceDoesNotActivate", "Clones/GoWithTheDevice",
		"Trust/NoneAtFirst", "Trust/PutAndListed", "Trust/PutAgainReplaces", "Trust/Forgotten", "Trust/ForgettingAnUnknownOneChangesNothing",
		"Races/TwentyTimesTheSameRequest", "Races/TwoEnrolmentsOfOneDevice", "Races/ActivationAndDeletion", "Races/ActivationAndDisablingTheToken",
	)
}
