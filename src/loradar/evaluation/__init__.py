"""Floor 2: figures with their n, interval and threat; the checks that they deserve belief; the report."""

from loradar.evaluation.few_shot import (
    BlendWeights,
    FewShotReport,
    FewShotRow,
    Shown,
    TaskPicture,
    averaged,
    read_few_shot_report,
    write_few_shot_report,
)
from loradar.evaluation.guards import CONFIDENT, Cost, CostPoint, Identification, Reliability, Suspect
from loradar.evaluation.leak import Leak, Sign, leak_test
from loradar.evaluation.measure import NO_ATTACK, Row, accuracy_row, craft, device_of, predict
from loradar.evaluation.names import labels, short_names
from loradar.evaluation.pictures import Picture, png
from loradar.evaluation.report import (
    Curve,
    Point,
    Replugged,
    Report,
    Size,
    from_json,
    read_report,
    to_json,
    write_report,
)
from loradar.evaluation.sanity import Check, check_masking, check_transfer
from loradar.evaluation.versions import versions

__all__ = [
    "CONFIDENT",
    "NO_ATTACK",
    "BlendWeights",
    "Check",
    "Cost",
    "CostPoint",
    "Curve",
    "FewShotReport",
    "FewShotRow",
    "Identification",
    "Leak",
    "Picture",
    "Point",
    "Reliability",
    "Replugged",
    "Report",
    "Row",
    "Shown",
    "Sign",
    "Size",
    "Suspect",
    "TaskPicture",
    "accuracy_row",
    "averaged",
    "check_masking",
    "check_transfer",
    "craft",
    "device_of",
    "from_json",
    "labels",
    "leak_test",
    "png",
    "predict",
    "read_few_shot_report",
    "read_report",
    "short_names",
    "to_json",
    "versions",
    "write_few_shot_report",
    "write_report",
]
