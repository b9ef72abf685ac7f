"""Does a patient have coronary heart disease? UCI's Cleveland exams and simulated heart rates of a bracelet.

The exams are real (see data/README.md for the credit). Features are declared over events, so a second exam
or a new reading changes the score of its patient without anything being trained again.
"""

from anabranch import (
    Count,
    FeatureView,
    Freshness,
    Label,
    Last,
    Max,
    Mean,
    Min,
    Model,
    Objectives,
    Project,
    Slice,
    Source,
    StdDev,
)

ATTRIBUTES = {
    "age": "INT", "sex": "INT", "cp": "INT", "trestbps": "INT", "chol": "INT", "fbs": "INT", "restecg": "INT",
    "thalach": "INT", "exang": "INT", "oldpeak": "DOUBLE", "slope": "INT", "ca": "INT", "thal": "INT",
}  # fmt: skip

exams = Source(
    name="exams",
    topic="exams",
    id="exam_id",
    time="examined_at",
    schema="exam_id STRING, patient_id STRING, examined_at TIMESTAMP, "
    + ", ".join(f"{name} {kind}" for name, kind in ATTRIBUTES.items()),
    description="Clinical exams with the 13 attributes of the UCI Heart Disease data",
)

bracelet = Source(
    name="bracelet",
    topic="bracelet-feed",
    id="reading_id",
    time="measured_at",
    schema="reading_id STRING, patient_id STRING, measured_at TIMESTAMP, heart_rate DOUBLE",
    description="Heart rate in beats a minute, sent by the patient's bracelet (simulated)",
)

diagnoses = Source(
    name="diagnoses",
    topic="diagnoses",
    id="diagnosis_id",
    time="diagnosed_at",
    schema="diagnosis_id STRING, patient_id STRING, diagnosed_at TIMESTAMP, num INT",
    description="What the angiography found: num above 0 is disease",
)

latest_exam = FeatureView(
    name="latest_exam",
    source=exams,
    key="patient_id",
    features={name: Last(name) for name in ATTRIBUTES},
    description="The latest known value of each attribute",
)

heart_rate = FeatureView(
    name="heart_rate",
    source=bracelet,
    key="patient_id",
    windows=("1h", "1d", "7d"),
    features={
        "bpm_mean": Mean("heart_rate"),
        "bpm_max": Max("heart_rate"),
        "bpm_min": Min("heart_rate"),
        "bpm_sd": StdDev("heart_rate"),
        "readings": Count(),
        "fast": Count(where="heart_rate > 120"),
    },
    description="Heart rate of the last hour, day and week",
)

project = Project(
    name="heart_disease",
    views=(latest_exam, heart_rate),
    label=Label(source=diagnoses, key="patient_id", target="num > 0", description="Coronary heart disease"),
    model=Model(
        metric="roc_auc",
        categories=("cp", "restecg", "slope", "thal"),
        slices=("sex", Slice(feature="age", bands=(50, 60))),
        intended_use="Demonstrates training and serving; not for decisions about patients",
        limits="303 patients of one clinic in 1988; the bracelet is simulated",
    ),
    owner="cardiology",
    description="Risk of coronary heart disease from the latest exam and recent heart rates",
    freshness=Freshness(batch="1d", stream="10s"),
    objectives=Objectives(availability=0.999, p99="50ms", quality=0.95),
)
