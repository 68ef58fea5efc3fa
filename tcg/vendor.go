package tcg

// Vendors maps the ids of the TCG's TPM Vendor ID Registry to the makers' names. A TPM's id is in
// TPM_PT_MANUFACTURER and in tpmManufacturer of the EK certificate.
var Vendors = map[string]string{
	"AMD": "AMD", "ANT": "Ant Group", "ATML": "Atmel", "BRCM": "Broadcom", "CSCO": "Cisco", "FLYS": "Flyslice Technologies",
	"ROCC": "Fuzhou Rockchip", "GOOG": "Google", "HPI": "HP Inc", "HPE": "Hewlett Packard Enterprise", "HISI": "Huawei",
	"IBM": "IBM", "IFX": "Infineon", "INTC": "Intel", "LEN": "Lenovo", "MSFT": "Microsoft", "NSM": "National Semiconductor",
	"NTZ": "Nationz", "NSG": "NSING", "NTC": "Nuvoton", "QCOM": "Qualcomm", "SMSN": "Samsung", "SECE": "SecEdge", "SNS": "Sinosun",
	"SMSC": "SMSC", "STM": "STMicroelectronics", "TXN": "Texas Instruments", "WEC": "Winbond", "SEAL": "Wisekey",
}
